//! Texts of `db-pos`, `.primary` and `.lag`.
//!
//! Owns: their format, byte for byte that of the original. Does not own: caching (they are read with
//! direct IO and an attribute time-out of 0, so content and size are always of now). Tested below.

use std::time::{SystemTime, UNIX_EPOCH};

use litefs_types::Pos;

use super::model::Lag;

/// Size of `db-pos`: two numbers of 16 hexadecimal digits, a slash, a newline.
pub const POS_SIZE: u64 = 34;

/// `db-pos`
pub fn pos_text(pos: Pos) -> String {
    format!("{pos}\n")
}

/// `.primary`
pub fn primary_text(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// `.lag`: signed milliseconds, padded to ten characters.
pub fn lag_text(lag: Lag) -> String {
    let millis = match lag {
        Lag::Primary => 0,
        Lag::NotReady => i64::from(i32::MAX),
        // Eleven characters hold eleven days; more than that is not ready.
        Lag::Behind { millis, .. } => millis.clamp(-i64::from(i32::MAX), i64::from(i32::MAX)),
    };
    format!("{millis:+010}\n")
}

/// Modification time of `.lag`: now on the primary, the epoch if not ready, else the primary's last sign.
pub fn lag_mtime(lag: Lag, now: SystemTime) -> SystemTime {
    match lag {
        Lag::Primary => now,
        Lag::NotReady => UNIX_EPOCH,
        Lag::Behind { at, .. } => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_original() {
        assert_eq!(lag_text(Lag::Primary), "+000000000\n");
        assert_eq!(lag_text(Lag::Behind { millis: 25, at: UNIX_EPOCH }), "+000000025\n");
        assert_eq!(lag_text(Lag::Behind { millis: -3, at: UNIX_EPOCH }), "-000000003\n");
        assert_eq!(lag_text(Lag::NotReady), "+2147483647\n");
        assert_eq!(primary_text("primaryhost"), "primaryhost\n");
        let pos: Pos = "0000000000000006/883fe09b8908c14b".parse().unwrap();
        assert_eq!(pos_text(pos), "0000000000000006/883fe09b8908c14b\n");
        assert_eq!(pos_text(Pos::ZERO).len() as u64, POS_SIZE);
    }
}
