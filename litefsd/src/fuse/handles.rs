//! Open file handles: number to open file, in a few nanoseconds.
//!
//! Owns: handle numbers. Does not own: what is open. A number holds a generation, so that it is never
//! the number of two handles, not even of two that used the same slot. Tested below.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Readers of different files should not bounce one cache line between cores.
const SHARDS: usize = 16;
/// Low bits of a number: shard and slot; the generation is above them.
const INDEX_BITS: u32 = 32;

struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    value: Option<Arc<T>>,
}

/// A table from handle numbers to `T`. Numbers are never 0.
pub struct Handles<T> {
    shards: [RwLock<Slab<T>>; SHARDS],
    next: AtomicUsize,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::new(Slab { slots: Vec::new(), free: Vec::new() })),
            next: AtomicUsize::new(0),
        }
    }
}

impl<T> Handles<T> {
    /// Takes a number before the thing exists (its opener wants to know it). Give it back by
    /// [`Handles::remove`] if the opening fails.
    pub fn reserve(&self) -> u64 {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        // No code panics while it holds one of these locks; a poisoned table is still whole.
        let mut slab = self.shards[shard].write().unwrap_or_else(PoisonError::into_inner);
        let slot = slab.free.pop().unwrap_or_else(|| {
            slab.slots.push(Slot { generation: 0, value: None });
            (slab.slots.len() - 1) as u32
        });
        let generation = &mut slab.slots[slot as usize].generation;
        // Starts at 1 and skips 0 when it wraps: a handle number is never 0.
        *generation = generation.checked_add(1).unwrap_or(1);
        u64::from(*generation) << INDEX_BITS | (u64::from(slot) * SHARDS as u64 + shard as u64)
    }

    /// Puts the thing behind its number.
    pub fn fill(&self, number: u64, value: Arc<T>) {
        let (shard, slot, generation) = split(number);
        let mut slab = self.shards[shard].write().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = slab.slots.get_mut(slot).filter(|s| s.generation == generation) {
            s.value = Some(value);
        }
    }

    /// What is open under the number.
    pub fn get(&self, number: u64) -> Option<Arc<T>> {
        let (shard, slot, generation) = split(number);
        let slab = self.shards[shard].read().unwrap_or_else(PoisonError::into_inner);
        slab.slots.get(slot).filter(|s| s.generation == generation)?.value.clone()
    }

    /// Frees the number.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        let (shard, slot, generation) = split(number);
        let mut slab = self.shards[shard].write().unwrap_or_else(PoisonError::into_inner);
        let s = slab.slots.get_mut(slot).filter(|s| s.generation == generation)?;
        let value = s.value.take();
        // A second `remove` of the same number must not free the slot twice.
        s.generation = s.generation.checked_add(1).unwrap_or(1);
        slab.free.push(slot as u32);
        value
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|s| {
                let s = s.read().unwrap_or_else(PoisonError::into_inner);
                s.slots.len() - s.free.len()
            })
            .sum()
    }

    /// Looks at everything that is open.
    pub fn for_each(&self, mut f: impl FnMut(&T)) {
        for shard in &self.shards {
            let slab = shard.read().unwrap_or_else(PoisonError::into_inner);
            slab.slots.iter().filter_map(|s| s.value.as_deref()).for_each(&mut f);
        }
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn split(number: u64) -> (usize, usize, u32) {
    let index = (number & u32::MAX as u64) as usize;
    (index % SHARDS, index / SHARDS, (number >> INDEX_BITS) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_used_twice() {
        let t = Handles::<u32>::default();
        let mut seen = std::collections::HashSet::new();
        for round in 0..100 {
            let numbers: Vec<u64> = (0..50).map(|_| t.reserve()).collect();
            for &n in &numbers {
                assert!(n != 0 && seen.insert(n), "{n} again");
                assert!(t.get(n).is_none());
                t.fill(n, Arc::new(round));
                assert_eq!(t.get(n).as_deref(), Some(&round));
            }
            assert_eq!(t.len(), 50);
            let mut open = 0;
            t.for_each(|_| open += 1);
            assert_eq!(open, 50);
            for &n in &numbers {
                assert_eq!(t.remove(n).as_deref(), Some(&round));
                assert!(t.remove(n).is_none() && t.get(n).is_none());
            }
        }
        assert!(t.is_empty());
    }

    #[test]
    fn nonsense_numbers_are_harmless() {
        let t = Handles::<u32>::default();
        for n in [0, 1, u64::MAX, 1 << 32, u64::from(u32::MAX)] {
            assert!(t.get(n).is_none() && t.remove(n).is_none());
            t.fill(n, Arc::new(1));
        }
        assert!(t.is_empty());
    }
}
