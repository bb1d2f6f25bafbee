//! The deciding half of litefs-rs: it is told what happened and says what follows from it; it never
//! acts. Time, chance, files and threads are the caller's.
//!
//! *Invariant:* `no_std`. There is no clock, file, socket or thread in here, and reading of files goes
//! through a trait that the caller implements. The same inputs give the same answers.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod apply;
pub mod capture;
pub mod page_sums;
pub mod retention;
pub mod stream;
pub mod write_gate;
