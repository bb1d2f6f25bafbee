//! Properties: what was written is read back, and nothing that was damaged is accepted.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::io::Cursor;

use litefs_ltx::checksum::{Crc64, page_checksum};
use litefs_ltx::{
    Compression, Decoder, Encoder, Format, Header, LtxError, compact, detect, raw_size, transcode, verify,
    verify_any,
};
use litefs_types::{Checksum, NodeId, PageNo, PageSize, Timestamp, Txid};
use proptest::collection::vec;
use proptest::prelude::*;

type Pages = Vec<(PageNo, Vec<u8>)>;

const BOTH: [Compression; 2] = [Compression::None, Compression::Lz4];

fn ps512() -> PageSize {
    PageSize::new(512).unwrap()
}

fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

fn page(n: u32) -> PageNo {
    PageNo::new(n).unwrap()
}

fn filled(n: u32, seed: u32) -> (PageNo, Vec<u8>) {
    (page(n), (0..512u32).map(|i| (i.wrapping_mul(seed) >> 4) as u8).collect())
}

fn encode(header: &Header, pages: &Pages, compression: Compression, post: Option<Checksum>) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new(), header.clone(), compression).unwrap();
    for (n, data) in pages {
        assert_eq!(e.page(*n, data).unwrap(), page_checksum(*n, data));
    }
    let post = post.unwrap_or(e.pages_checksum());
    e.finish(post).unwrap().1
}

fn decode(file: &[u8]) -> Result<(Header, Pages, Checksum), LtxError> {
    let mut d = Decoder::new(file)?;
    let (mut pages, mut data) = (Vec::new(), Vec::new());
    while let Some(info) = d.next_page(&mut data)? {
        assert_eq!(info.checksum, page_checksum(info.page, &data));
        pages.push((info.page, data.clone()));
    }
    let v = d.finish()?;
    Ok((v.header, pages, v.trailer.post_apply))
}

fn small() -> (Header, Pages) {
    let header = Header {
        timestamp: Timestamp::from_millis(1),
        node_id: NodeId::new(7),
        ..Header::new(ps512(), 9, txid(4), Checksum::new(5))
    };
    (header, vec![filled(2, 1), filled(9, 77)])
}

prop_compose! {
    fn any_file()(
        log2 in 9u32..=16,
        numbers in proptest::collection::btree_set(1u32..100, 0..6),
        commit in 100u32..200,
        min in 2u64..u64::MAX / 2,
        more in 0u64..1000,
        millis in any::<i64>(),
        node in any::<u64>(),
        fill in vec(any::<u8>(), 1..200),
        random in any::<bool>(),
    ) -> (Header, Pages) {
        let page_size = PageSize::new(1 << log2).unwrap();
        let header = Header {
            max_txid: txid(min + more),
            timestamp: Timestamp::from_millis(millis),
            node_id: NodeId::new(node),
            ..Header::new(page_size, commit, txid(min), Checksum::new(min))
        };
        let mut x = min | 1;
        let pages = numbers.iter().map(|n| {
            let data = (0..page_size.bytes()).map(|i| {
                x ^= x << 13; x ^= x >> 7; x ^= x << 17;
                if random { x as u8 } else { fill[i % fill.len()].wrapping_add(*n as u8) }
            }).collect();
            (page(*n), data)
        }).collect();
        (header, pages)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip((header, pages) in any_file(), post in 1u64..) {
        let post = Checksum::new(post);
        let raw = encode(&header, &pages, Compression::None, Some(post));
        prop_assert_eq!(raw.len() as u64, raw_size(header.page_size, pages.len() as u32));
        let packed = encode(&header, &pages, Compression::Lz4, Some(post));
        for file in [&raw, &packed] {
            let (h, p, c) = decode(file).unwrap();
            prop_assert_eq!((&h, &p, c), (&header, &pages, post));
            let both = BOTH.map(|c| transcode(Decoder::new(&file[..]).unwrap(), Vec::new(), c).unwrap().1);
            prop_assert_eq!(&both[0], &raw);
            prop_assert_eq!(&both[1], &packed);
        }
    }

    #[test]
    fn damage_is_never_content((header, pages) in any_file(), at in any::<prop::sample::Index>(), with in 1u8..) {
        for c in BOTH {
            let mut file = encode(&header, &pages, c, Some(Checksum::new(1)));
            let at = at.index(file.len());
            file[at] ^= with;
            // An LZ4 stream has several encodings of the same content; anything else must fail.
            if let Ok((h, p, _)) = decode(&file) {
                prop_assert!(c == Compression::Lz4 && h == header && p == pages);
            }
        }
    }

    #[test]
    fn garbage_does_not_panic(bytes in vec(any::<u8>(), 0..400), flags in 0u8..4) {
        let mut file = encode(&small().0, &small().1, Compression::None, Some(Checksum::EMPTY));
        file.truncate(100);
        file[7] = flags;
        file.extend(bytes);
        prop_assert!(verify_any(Cursor::new(file)).is_err());
    }
}

#[test]
fn every_truncation_is_rejected() {
    let (header, pages) = small();
    for c in BOTH {
        let mut file = encode(&header, &pages, c, Some(Checksum::new(1)));
        for len in 0..file.len() {
            let e = verify(&file[..len]).unwrap_err();
            assert!(e.is_corrupt(), "{len}: {e}");
        }
        assert!(verify(&file[..]).is_ok());
        file.push(0);
        assert!(matches!(verify(&file[..]), Err(LtxError::Trailing)));
    }
}

#[test]
fn every_bit_flip_is_rejected() {
    let (header, pages) = small();
    for c in BOTH {
        let file = encode(&header, &pages, c, Some(Checksum::new(1)));
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match decode(&bad) {
                Err(e) => assert!(e.is_corrupt()),
                Ok((h, p, _)) => assert!(c == Compression::Lz4 && (&h, &p) == (&header, &pages), "bit {bit}"),
            }
        }
    }
}

/// A reader that gives one byte at a time must not change anything.
#[test]
fn short_reads() {
    struct OneByte<'a>(&'a [u8]);
    impl std::io::Read for OneByte<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = buf.len().min(1).min(self.0.len());
            let (head, tail) = self.0.split_at(n);
            buf[..n].copy_from_slice(head);
            self.0 = tail;
            Ok(n)
        }
    }
    let (header, pages) = small();
    for c in BOTH {
        assert_eq!(verify(OneByte(&encode(&header, &pages, c, Some(Checksum::new(1))))).unwrap().pages, 2);
    }
}

/// Writes formats 2 and 3, as far as reading them needs it.
fn encode_later(header: &Header, pages: &Pages, kind: Format, frames: bool, post: Checksum) -> Vec<u8> {
    let mut out = encode(header, &Vec::new(), Compression::None, Some(post))[..100].to_vec();
    let mut hash = Crc64::new();
    hash.update(&out);
    let mut index = Vec::new();
    let uvarint = |out: &mut Vec<u8>, mut v: u64| {
        while v >= 128 {
            out.push(v as u8 | 128);
            v >>= 7;
        }
        out.push(v as u8);
    };
    for (n, data) in pages {
        let start = out.len();
        out.extend(n.get().to_be_bytes());
        if kind == Format::V3 {
            out.extend(u16::from(!frames).to_be_bytes());
        }
        let body = if frames {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut w = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            std::io::Write::write_all(&mut w, data).unwrap();
            w.finish().unwrap()
        } else {
            let block = lz4_flex::block::compress(data);
            out.extend((block.len() as u32).to_be_bytes());
            block
        };
        hash.update(&out[start..]);
        hash.update(data);
        out.extend(body);
        for v in [u64::from(n.get()), start as u64, (out.len() - start) as u64] {
            uvarint(&mut index, v);
        }
    }
    let tail = out.len();
    out.extend(vec![0; if kind == Format::V3 { 6 } else { 4 }]);
    index.push(0);
    let len = index.len() as u64;
    out.extend(&index);
    out.extend(len.to_be_bytes());
    out.extend(post.get().to_be_bytes());
    hash.update(&out[tail..]);
    out.extend(hash.checksum().get().to_be_bytes());
    out
}

#[test]
fn later_formats() {
    let (header, pages) = small();
    let post = Checksum::new(3);
    for (kind, frames) in [(Format::V2, true), (Format::V3, true), (Format::V3, false)] {
        for pages in [pages.clone(), Vec::new()] {
            let file = encode_later(&header, &pages, kind, frames, post);
            let v = verify_any(Cursor::new(&file)).unwrap();
            assert_eq!((v.format, v.pages as usize, &v.header), (kind, pages.len(), &header));
            assert_eq!(detect(Cursor::new(&file)).unwrap(), kind);
            for len in 0..file.len() {
                assert!(verify_any(Cursor::new(&file[..len])).is_err(), "{kind:?} {len}");
            }
            for bit in 0..file.len() * 8 {
                let mut bad = file.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // Other encodings of the same page data exist; everything else is covered by checksums.
                if let Ok(v) = verify_any(Cursor::new(&bad)) {
                    assert_eq!((v.header, v.trailer.post_apply), (header.clone(), post), "{kind:?} {bit}");
                    assert!(bit / 8 > 110 && !pages.is_empty());
                }
            }
            let mut d = Decoder::with_format(&file[..], kind).unwrap();
            let mut data = Vec::new();
            for (n, want) in &pages {
                assert_eq!(d.next_page(&mut data).unwrap().unwrap().page, *n);
                assert_eq!(&data, want);
            }
            let as_v1 =
                transcode(Decoder::with_format(&file[..], kind).unwrap(), Vec::new(), Compression::Lz4);
            assert_eq!(decode(&as_v1.unwrap().1).unwrap(), (header.clone(), pages.clone(), post));
        }
    }
}

#[test]
fn a_wrong_index_is_rejected() {
    let (header, pages) = small();
    let file = encode_later(&header, &pages, Format::V3, false, Checksum::new(3));
    // The same file with another first entry and a file checksum that fits.
    let index = file.len() - 16 - 8 - usize::from(file[file.len() - 17]);
    let mut bad = file.clone();
    bad[index] += 1;
    assert!(matches!(Decoder::with_format(&bad[..], Format::V3).unwrap().finish(), Err(LtxError::Index)));
}

#[test]
fn documented_deletions_in_later_formats() {
    let header = Header {
        timestamp: Timestamp::from_millis(1_700_000_000_125),
        ..Header::new(ps512(), 0, txid(3), Checksum::from_raw(0xe753_b334_3b26_d640).unwrap())
    };
    for (kind, len, checksum) in
        [(Format::V2, 129, 0xd4ee_1000_7a6f_e092), (Format::V3, 131, 0xecd8_a5ab_1000_7ab7)]
    {
        let file = encode_later(&header, &Vec::new(), kind, false, Checksum::EMPTY);
        assert_eq!(file.len(), len);
        assert_eq!(file[len - 8..], u64::to_be_bytes(checksum));
        assert_eq!(detect(Cursor::new(&file)).unwrap(), kind);
    }
    let one = encode(&header, &Vec::new(), Compression::None, Some(Checksum::EMPTY));
    assert_eq!(detect(Cursor::new(&one)).unwrap(), Format::V1);
    let packed = encode(&header, &Vec::new(), Compression::Lz4, Some(Checksum::EMPTY));
    assert_eq!((packed.len(), detect(Cursor::new(&packed)).unwrap()), (139, Format::V1));
    assert_eq!(packed[100..107], [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7]);
}

/// Raw page data that looks like a later format is still found to be format 1.
#[test]
fn imitations_are_told_apart() {
    let (header, mut pages) = small();
    for start in [&[0u8, 1, 0, 0, 0, 9][..], &[0, 0, 4, 0x22, 0x4d, 0x18], &[4, 0x22, 0x4d, 0x18]] {
        pages[0].1[..start.len()].copy_from_slice(start);
        let file = encode(&header, &pages, Compression::None, Some(Checksum::new(1)));
        assert_eq!(verify_any(Cursor::new(file)).unwrap().format, Format::V1);
    }
}

#[test]
fn a_legacy_lz4_frame_cannot_swallow_the_trailer() {
    let (header, pages) = small();
    let mut file = encode(&header, &pages, Compression::Lz4, Some(Checksum::new(1)));
    file[100..104].copy_from_slice(&[0x02, 0x21, 0x4c, 0x18]);
    assert!(matches!(verify(&file[..]), Err(LtxError::Compression(_))));
}

/// A history with a shrink and a regrowth.
fn history() -> Vec<(Header, Pages, Checksum)> {
    let steps: [(u32, &[(u32, u32)]); 4] = [
        (4, &[(1, 1), (2, 2), (3, 3), (4, 4)]),
        (2, &[(1, 5)]),
        (4, &[(3, 6), (4, 7)]),
        (4, &[(2, 8), (4, 9)]),
    ];
    let mut db: Vec<Option<Checksum>> = Vec::new();
    let mut pre = Checksum::NONE;
    let mut out = Vec::new();
    for (i, (commit, pages)) in steps.iter().enumerate() {
        let pages: Pages = pages.iter().map(|(n, seed)| filled(*n, *seed)).collect();
        db.resize(*commit as usize, None);
        for (n, data) in &pages {
            db[n.index()] = Some(page_checksum(*n, data));
        }
        let post = db.iter().fold(Checksum::EMPTY, |c, p| c.replace(Checksum::NONE, p.unwrap()));
        out.push((Header::new(ps512(), *commit, txid(i as u64 + 1), pre), pages, post));
        pre = post;
    }
    out
}

#[test]
fn compaction() {
    let h = history();
    let files: Vec<Vec<u8>> =
        h.iter().zip(BOTH.iter().cycle()).map(|((h, p, c), z)| encode(h, p, *z, Some(*c))).collect();
    let open = |range: std::ops::Range<usize>| -> Vec<Decoder<&[u8]>> {
        files[range].iter().map(|f| Decoder::new(&f[..]).unwrap()).rev().collect()
    };
    let (_, all) = compact(open(0..4), Vec::new(), Compression::Lz4).unwrap();
    let (header, pages, post) = decode(&all).unwrap();
    assert_eq!((header.min_txid, header.max_txid, header.commit), (txid(1), txid(4), 4));
    assert_eq!(post, h[3].2);
    assert_eq!(pages, vec![filled(1, 5), filled(2, 8), filled(3, 6), filled(4, 9)]);

    let (_, some) = compact(open(1..3), Vec::new(), Compression::None).unwrap();
    let (header, pages, post) = decode(&some).unwrap();
    assert_eq!((header.pre_apply, post), (h[0].2, h[2].2));
    assert_eq!(pages, vec![filled(1, 5), filled(3, 6), filled(4, 7)]);

    let mut gap = open(0..1);
    gap.extend(open(2..3));
    assert!(matches!(compact(gap, Vec::new(), Compression::None), Err(LtxError::NotContiguous(_))));
    assert!(compact(open(0..0), Vec::new(), Compression::None).is_err());

    // The right numbers, but of another history.
    let (mut header, pages, post) = h[2].clone();
    header.pre_apply = Checksum::new(0x77);
    let foreign = encode(&header, &pages, Compression::None, Some(post));
    let mut inputs = open(0..2);
    inputs.push(Decoder::new(&foreign[..]).unwrap());
    assert!(matches!(
        compact(inputs, Vec::new(), Compression::None),
        Err(LtxError::NotContiguous("checksums"))
    ));
}

/// Measures the hot path; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    for log2 in [9, 12, 16] {
        let ps = PageSize::new(1 << log2).unwrap();
        let header = Header::new(ps, 9, txid(4), Checksum::new(5));
        let data: Vec<u8> = (0..ps.get()).map(|i| (i >> 3) as u8).collect();
        let mut out = Vec::with_capacity(70_000);
        let time = |what: &str, f: &mut dyn FnMut()| {
            let (start, n) = (std::time::Instant::now(), 100_000);
            for _ in 0..n {
                f();
            }
            println!("{ps} {what}: {:.0} ns", start.elapsed().as_nanos() as f64 / f64::from(n));
        };
        time("one page transaction", &mut || {
            out.clear();
            let mut e = Encoder::new(&mut out, header.clone(), Compression::None).unwrap();
            e.page(page(3), &data).unwrap();
            std::hint::black_box(e.finish(Checksum::new(1)).unwrap().0);
        });
        time("page checksum", &mut || {
            std::hint::black_box(page_checksum(page(3), std::hint::black_box(&data)));
        });
        time("verify", &mut || {
            std::hint::black_box(verify(&out[..]).unwrap());
        });
    }
}
