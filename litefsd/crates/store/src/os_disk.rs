//! The real disk: [`Disk`] and [`DiskFile`] over the operating system, one system call each.
//!
//! Owns no state. Tests: below; all other tests of the store run on it or on `sim_disk`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::disk::{DirEntry, Disk, DiskFile, FileMeta, Op, OpenHow};

/// See the module documentation.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// A file of [`OsDisk`].
#[derive(Debug)]
pub struct OsFile(File);

impl OsFile {
    /// Takes over an open file.
    pub fn new(file: File) -> Self {
        Self(file)
    }
}

fn meta(m: &fs::Metadata) -> FileMeta {
    let mtime = u64::try_from(m.mtime())
        .map_or(SystemTime::UNIX_EPOCH, |s| SystemTime::UNIX_EPOCH + Duration::new(s, m.mtime_nsec() as u32));
    FileMeta {
        len: m.len(),
        mtime,
        ino: m.ino(),
        mode: m.mode() & 0o7777,
        uid: m.uid(),
        gid: m.gid(),
        blocks: m.blocks(),
        is_dir: m.is_dir(),
    }
}

impl Disk for OsDisk {
    fn open(&self, _op: Op, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(how.read)
            .write(how.write)
            .create(how.create)
            .create_new(how.create_new)
            .truncate(how.truncate)
            .mode(how.mode)
            .open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, _op: Op, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, _op: Op, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, _op: Op, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_dir_all(&self, _op: Op, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            r => r,
        }
    }

    fn read_dir(&self, _op: Op, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            out.push(DirEntry { name: entry.file_name(), is_dir: entry.file_type()?.is_dir() });
        }
        out.sort();
        Ok(out)
    }

    fn metadata(&self, _op: Op, path: &Path) -> io::Result<FileMeta> {
        fs::symlink_metadata(path).map(|m| meta(&m))
    }

    fn sync_dir(&self, _op: Op, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn copy(&self, _op: Op, from: &Path, to: &Path) -> io::Result<()> {
        let mut src = File::open(from)?;
        let mut dst = OpenOptions::new().write(true).create_new(true).open(to)?;
        // `io::copy` between files uses copy_file_range, which shares blocks where it can.
        io::copy(&mut src, &mut dst).map(|_| ())
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, _op: Op, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn set_len(&self, _op: Op, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self, _op: Op) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self, _op: Op) -> io::Result<()> {
        self.0.sync_all()
    }

    fn metadata(&self) -> io::Result<FileMeta> {
        self.0.metadata().map(|m| meta(&m))
    }

    fn std_file(&self) -> Option<&File> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: Op = Op::new("test");

    #[test]
    fn files_and_directories() {
        let tmp = tempfile::tempdir().unwrap();
        let (a, b) = (tmp.path().join("x/y/a"), tmp.path().join("x/y/b"));
        let disk = OsDisk;
        disk.create_dir_all(OP, a.parent().unwrap()).unwrap();
        assert!(!disk.exists(OP, &a).unwrap());
        assert!(disk.open(OP, &a, OpenHow::READ_WRITE).is_err());
        let f = disk.open(OP, &a, OpenHow::CREATE_NEW.with_mode(0o600)).unwrap();
        assert!(disk.open(OP, &a, OpenHow::CREATE_NEW).is_err());
        f.write_all_at(OP, b"hello", 3).unwrap();
        let mut buf = [9; 10];
        assert_eq!(f.read_at(&mut buf, 2).unwrap(), 6);
        assert_eq!(&buf[..6], b"\0hello");
        assert_eq!(f.read_exact_at(&mut buf, 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(f.metadata().unwrap().mode, 0o600);
        disk.copy(OP, &a, &b).unwrap();
        assert!(disk.copy(OP, &a, &b).is_err());
        disk.rename(OP, &b, &a).unwrap();
        disk.sync_dir(OP, a.parent().unwrap()).unwrap();
        assert_eq!(disk.read_dir(OP, a.parent().unwrap()).unwrap().len(), 1);
        disk.unlink(OP, &a).unwrap();
        // The first file is gone from the tree, not from under its handle.
        f.set_len(OP, 4).unwrap();
        f.sync_all(OP).unwrap();
        assert_eq!(f.len().unwrap(), 4);
        disk.remove_dir_all(OP, &tmp.path().join("x")).unwrap();
        disk.remove_dir_all(OP, &tmp.path().join("x")).unwrap();
    }
}
