//! Damages samples: flips, cuts, splices, and numbers that lie about lengths.

use crate::rng::Rng;

/// Numbers that parsers trip over.
const ODD: [u64; 18] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x3fff_ffff,
    0x4000_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// One to six changes of `sample`; `other` gives bytes for splices. At most `limit` bytes come out.
pub fn mutate(rng: &mut Rng, sample: &[u8], other: &[u8], limit: usize) -> Vec<u8> {
    let mut out = sample.to_vec();
    for _ in 0..rng.range(1, 7) {
        once(rng, &mut out, other);
    }
    out.truncate(limit);
    out
}

/// Random bytes, at most `max` of them.
pub fn noise(rng: &mut Rng, max: u64) -> Vec<u8> {
    let len = rng.range(0, max + 1);
    (0..len).map(|_| rng.next() as u8).collect()
}

fn once(rng: &mut Rng, out: &mut Vec<u8>, other: &[u8]) {
    let len = out.len() as u64;
    let at = position(rng, len);
    match rng.range(0, 10) {
        0 | 1 => {
            if let Some(b) = out.get_mut(at) {
                *b ^= 1 << rng.range(0, 8);
            }
        }
        2 => {
            if let Some(b) = out.get_mut(at) {
                *b = rng.next() as u8;
            }
        }
        3 => out.truncate(at),
        4 | 5 => number(rng, out, at),
        6 => {
            let from = rng.range(0, other.len() as u64) as usize;
            let piece = &other[from..(from + rng.range(0, 300) as usize).min(other.len())];
            if rng.chance(50) {
                out.splice(at..at, piece.iter().copied());
            } else {
                let end = (at + piece.len()).min(out.len());
                out.splice(at..end, piece.iter().copied());
            }
        }
        7 => {
            let end = (at + rng.range(1, 200) as usize).min(out.len());
            out.drain(at..end);
        }
        8 => {
            let end = (at + rng.range(1, 600) as usize).min(out.len());
            let piece = out[at..end].to_vec();
            out.splice(at..at, piece);
        }
        _ => {
            let end = (at + rng.range(1, 64) as usize).min(out.len());
            let fill = *rng.pick(&[0, 0xff, b'/', b'.', b'%', b'$', b'{', b'\n']);
            out[at..end].fill(fill);
        }
    }
}

/// Mostly near the start, where lengths, types and versions are.
fn position(rng: &mut Rng, len: u64) -> usize {
    let end = if rng.chance(60) { len.min(128) } else { len };
    rng.range(0, end) as usize
}

/// A number that lies, of 1 to 8 bytes, in either order, often at an aligned place.
fn number(rng: &mut Rng, out: &mut [u8], at: usize) {
    let width = *rng.pick(&[1, 2, 4, 4, 8]);
    let at = if rng.chance(70) { at - at % width } else { at };
    let Some(field) = out.get_mut(at..at + width) else { return };
    let value = if rng.chance(70) {
        *rng.pick(&ODD)
    } else {
        let old = field.iter().fold(0_u64, |v, b| v << 8 | u64::from(*b));
        old.wrapping_add(rng.range(0, 5)).wrapping_sub(2)
    };
    let bytes = value.to_be_bytes();
    field.copy_from_slice(&bytes[8 - width..]);
    if rng.chance(25) {
        field.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_damage_equally_and_limits_hold() {
        let sample: Vec<u8> = (0..2000_u32).map(|i| i as u8).collect();
        for seed in 0..200 {
            let run = || mutate(&mut Rng::new(seed), &sample, b"other bytes", 1500);
            assert_eq!(run(), run());
            assert!(run().len() <= 1500);
        }
        assert!(mutate(&mut Rng::new(1), &[], &[], 10).len() <= 10);
    }
}
