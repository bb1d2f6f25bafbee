//! The simulated disk against what it promises.

use super::*;

const OP: Op = Op::new("test");
const OTHER: Op = Op::new("other");

#[test]
fn what_is_not_synced_can_be_lost() {
    let d = SimDisk::new();
    d.create_dir_all(OP, Path::new("/a")).unwrap();
    d.sync_dir(OP, Path::new("/")).unwrap();
    let f = d.open(OP, Path::new("/a/f"), OpenHow::CREATE).unwrap();
    f.write_all_at(OP, &[1; 2000], 0).unwrap();
    f.sync_data(OP).unwrap();
    assert_eq!(d.crash(Crash::LoseAll).content("/a/f"), None);
    assert_eq!(d.crash(Crash::KeepAll).content("/a/f"), Some(vec![1; 2000]));
    d.sync_dir(OP, Path::new("/a")).unwrap();
    f.write_all_at(OP, &[2; 2000], 0).unwrap();
    d.rename(OP, Path::new("/a/f"), Path::new("/a/g")).unwrap();
    let lost = d.crash(Crash::LoseAll);
    assert_eq!((lost.content("/a/f"), lost.content("/a/g")), (Some(vec![1; 2000]), None));
    let kept = d.crash(Crash::KeepAll);
    assert_eq!((kept.content("/a/f"), kept.content("/a/g")), (None, Some(vec![2; 2000])));
    // Torn: whole sectors, old or new.
    let mut torn = false;
    for seed in 0..64 {
        let c = d.crash(Crash::Random(seed));
        let data = c.content("/a/f").or_else(|| c.content("/a/g")).unwrap();
        for sector in data.chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]));
        }
        torn |= data[0] != data[1999];
    }
    assert!(torn);
}

#[test]
fn faults_hit_once_and_where_they_were_aimed() {
    let d = SimDisk::new();
    let f = d.open(OP, Path::new("/f"), OpenHow::CREATE).unwrap();
    d.arm(At::NthOf(OTHER, 1), Fault::Error(libc::ENOSPC));
    d.arm(At::Nth(3), Fault::Short(libc::ENOSPC));
    f.write_all_at(OTHER, b"1234", 0).unwrap();
    f.write_all_at(OP, b"1234", 0).unwrap();
    assert_eq!(f.write_all_at(OTHER, b"abcd", 0).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert!(f.write_all_at(OP, b"abcd", 0).is_err());
    assert_eq!(d.content("/f").unwrap(), b"ab34");
    d.arm(At::Nth(0), Fault::StopAfter);
    assert!(f.write_all_at(OP, b"xyzw", 0).is_err());
    assert!(f.write_all_at(OP, b"....", 0).is_err());
    assert!(f.read_at(&mut [0], 0).is_err() && d.stopped());
    assert_eq!(d.crash(Crash::KeepAll).content("/f").unwrap(), b"xyzw");
    d.flip_bit("/f", 0, 0);
    assert_eq!(d.content("/f").unwrap(), b"yyzw");
}
