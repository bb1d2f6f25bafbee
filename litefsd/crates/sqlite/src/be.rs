//! Big-endian fields of fixed-size headers. Private to the crate; tested through its users.

/// The 32-bit field at `at`, which is a constant inside `N` at every call.
pub(crate) const fn u32_at<const N: usize>(b: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// The 16-bit field at `at`, which is a constant inside `N` at every call.
pub(crate) const fn u16_at<const N: usize>(b: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Two 32-bit fields side by side.
pub(crate) const fn pair_at<const N: usize>(b: &[u8; N], at: usize) -> [u32; 2] {
    [u32_at(b, at), u32_at(b, at + 4)]
}

/// Writes the 32-bit field at `at`, which is a constant inside `N` at every call.
pub(crate) fn put_u32<const N: usize>(b: &mut [u8; N], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_be_bytes());
}
