//! Tests of [`super`].

use alloc::vec;

use proptest::prelude::*;

use super::*;

fn db(name: &str) -> DbName {
    name.parse().unwrap()
}

fn all() -> Vec<Frame> {
    vec![
        Frame::Ready,
        Frame::DropDb { db: db("x") },
        Frame::Handoff { lease_id: "ab-1".into() },
        Frame::Hwm { db: db("yy"), txid: Txid::new(77) },
        Frame::Hwm { db: db("z"), txid: None },
        Frame::Heartbeat(Timestamp::from_millis(-2)),
        Frame::Ltx { db: db("name.db") },
    ]
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        picks in proptest::collection::vec((0usize..7, 0usize..200_000), 0..8),
        step in 1usize..100_000,
        end in any::<bool>(),
    ) {
        let (mut wire, mut want) = (Vec::new(), Vec::new());
        for (i, size) in picks {
            let frame = all()[i].clone();
            frame.encode(&mut wire);
            let is_ltx = matches!(frame, Frame::Ltx { .. });
            want.push((frame, is_ltx.then_some(size)));
            if is_ltx {
                let data = vec![i as u8; size];
                for (head, body) in super::super::chunk::chunks(&data) {
                    wire.extend(head);
                    wire.extend(body);
                }
                wire.extend(super::super::chunk::END);
            }
        }
        if end {
            Frame::End.encode(&mut wire);
            want.push((Frame::End, None));
            wire.extend(b"anything");
        }
        let mut d = FrameDecoder::new();
        let mut got: Vec<(Frame, Option<usize>)> = Vec::new();
        for mut input in wire.chunks(step) {
            while let Some(event) = d.next(&mut input).unwrap() {
                match event {
                    Event::Frame(f) => got.push((f, None)),
                    Event::Data(b) => *got.last_mut().unwrap().1.get_or_insert(0) += b.len(),
                    Event::LtxEnd => { got.last_mut().unwrap().1.get_or_insert(0); }
                }
            }
        }
        prop_assert_eq!(d.finish(), Ok(()));
        prop_assert_eq!(got, want);
    }

    #[test]
    fn garbage_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 1u32..8) {
        let mut d = FrameDecoder::new();
        let mut wire = kind.to_be_bytes().to_vec();
        wire.extend(bytes);
        let mut input = &wire[..];
        while let Ok(Some(_)) = d.next(&mut input) {}
    }
}

fn decode(bytes: &[u8]) -> Result<FrameDecoder, FrameError> {
    let (mut d, mut input) = (FrameDecoder::new(), bytes);
    while d.next(&mut input)?.is_some() {}
    Ok(d)
}

#[test]
fn an_end_within_a_frame_is_noticed() {
    let mut wire = Vec::new();
    let mut boundaries = vec![0];
    for frame in all() {
        frame.encode(&mut wire);
        boundaries.push(wire.len());
    }
    boundaries.pop();
    wire.extend([0, 1, 9, 0, 0]);
    boundaries.push(wire.len());
    for len in 0..=wire.len() {
        let ok = decode(&wire[..len]).unwrap().finish().is_ok();
        assert_eq!(ok, boundaries.contains(&len), "{len}");
    }
}

#[test]
fn hostile_input() {
    assert_eq!(decode(b"http: error").err(), Some(FrameError::Type(0x6874_7470)));
    assert_eq!(decode(&[0; 4]).err(), Some(FrameError::Type(0)));
    let huge = [0, 0, 0, 4, 255, 255, 255, 255];
    assert_eq!(decode(&huge).err(), Some(FrameError::NameTooLong(u32::MAX)));
    for name in ["../../evil", "", "a-wal"] {
        let mut wire = vec![0, 0, 0, 4];
        put_text(&mut wire, name);
        assert!(matches!(decode(&wire), Err(FrameError::Name(_))), "{name}");
    }
    let mut wire = vec![0, 0, 0, 5];
    put_text(&mut wire, "a\r\nb");
    assert_eq!(decode(&wire).err(), Some(FrameError::LeaseId));
    // An error is final.
    let (mut d, mut input) = (FrameDecoder::new(), &[0u8; 8][..]);
    assert!(d.next(&mut input).is_err());
    assert!(d.next(&mut &Frame::Ready.to_bytes()[..]).is_err() && d.finish().is_err());
}
