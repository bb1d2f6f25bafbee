//! The FUSE adapter on real mounts, over a plain directory in place of the store.
//!
//! Needs root and `/dev/fuse`, and fails without. Each test has a mount of its own.

#![allow(missing_docs, unreachable_pub)] // a test binary: nothing is reachable from outside

mod fixture;
mod model;

mod cache;
mod errors;
mod lifetime;
mod own;
mod sqlite;
mod users;
mod view;

/// Not a test: applications and daemons are this binary, run again.
#[test]
fn child() {
    if let Ok(role) = std::env::var(fixture::CHILD) {
        fixture::child(&role);
        std::process::exit(0);
    }
}
