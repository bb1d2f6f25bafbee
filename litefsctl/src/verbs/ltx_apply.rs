//! `ltx apply --db PATH FILE…`: the database is copied, the copy changed and checked, then renamed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use litefs_ltx::checksum::page_checksum;
use litefs_ltx::{Decoder, Verified, detect, verify_any};
use litefs_types::{Checksum, PageNo, PageSize};
use serde_json::json;

use super::ltx::{follows, open};
use super::{Context, print_json};
use crate::check::{self, reason};
use crate::exit::Failure;
use crate::replace::Replacement;
use crate::units::bytes;

pub(crate) fn run(ctx: &Context, db: &Path, paths: &[PathBuf]) -> Result<(), Failure> {
    // All files are checked before a byte is written.
    let mut end = None;
    for path in paths {
        let v = verify_any(open(path)?).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        follows(end, &v).map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
        end = Some((v.header.max_txid, v.trailer.post_apply));
    }
    let mut target = Replacement::new(db)?;
    let mut image = Image::copy(db, &mut target)?;
    for path in paths {
        image.apply(target.file(), path)?;
    }
    let (len, checksum) = (image.len(), image.checksum());
    target.refuse_companions()?;
    target.remove_companions()?;
    target.commit()?;
    let txid = end.map(|(t, _)| t.to_string()).unwrap_or_default();
    if ctx.global.json {
        return print_json(&json!({"path": db, "txid": txid, "checksum": checksum.to_string(), "size": len}));
    }
    ctx.note(format_args!("{} is at {txid}/{checksum} ({})", db.display(), bytes(len)));
    Ok(())
}

/// The database being changed, with the checksum of every page.
struct Image {
    page_size: Option<PageSize>,
    pages: Vec<Checksum>,
    sum: Checksum,
}

impl Image {
    /// Copies the database into the new file; a missing or empty one is a database without pages.
    fn copy(db: &Path, target: &mut Replacement) -> Result<Self, Failure> {
        let mut image = Self { page_size: None, pages: Vec::new(), sum: Checksum::EMPTY };
        let shown = db.display();
        let failed = |e: io::Error| Failure::failed(format!("cannot read {shown}: {}", reason(&e)));
        let mut from = match File::open(db) {
            Ok(f) => f,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(image),
            Err(e) => return Err(failed(e)),
        };
        let len = from.metadata().map_err(failed)?.len();
        if len == 0 {
            return Ok(image);
        }
        let header =
            check::header(&mut from, len).map_err(|why| Failure::failed(format!("{shown}: {why}")))?;
        image.page_size = Some(header.page_size);
        from.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut from = io::BufReader::with_capacity(1 << 20, from);
        let mut data = vec![0; header.page_size.bytes()];
        for n in 1..=header.pages {
            let Some(page) = PageNo::new(n) else { break };
            from.read_exact(&mut data).map_err(failed)?;
            image.write(target.file(), header.page_size, page, &data).map_err(failed)?;
        }
        Ok(image)
    }

    fn apply(&mut self, file: &mut File, path: &Path) -> Result<(), Failure> {
        let shown = path.display();
        let bad = |e: litefs_ltx::LtxError| Failure::failed(format!("{shown}: {e}"));
        let io = |e: io::Error| Failure::failed(format!("cannot write: {}", reason(&e)));
        let mut from = open(path)?;
        let format = detect(&mut from).map_err(bad)?;
        from.rewind().map_err(|e| Failure::failed(format!("{shown}: {}", reason(&e))))?;
        let mut decoder = Decoder::with_format(from, format).map_err(bad)?;
        let header = decoder.header().clone();
        let page_size = header.page_size;
        if header.is_snapshot() || self.page_size.is_none() {
            *self = Self { page_size: Some(page_size), pages: Vec::new(), sum: Checksum::EMPTY };
            file.set_len(0).map_err(io)?;
        }
        if self.page_size != Some(page_size) {
            return Err(Failure::failed(format!(
                "{shown}: its page size is {page_size}, the database's is another"
            )));
        }
        if !header.is_snapshot() && !header.no_checksum && header.pre_apply != self.checksum() {
            return Err(Failure::failed(format!(
                "{shown}: expects the database at checksum {}, but it is at {}",
                header.pre_apply,
                self.checksum()
            )));
        }
        let mut data = Vec::new();
        while let Some(info) = decoder.next_page(&mut data).map_err(bad)? {
            self.write(file, page_size, info.page, &data).map_err(io)?;
        }
        let Verified { trailer, .. } = decoder.finish().map_err(bad)?;
        self.truncate(header.commit);
        file.set_len(page_size.file_size(header.commit)).map_err(io)?;
        if !header.no_checksum && trailer.post_apply != self.checksum() {
            return Err(Failure::failed(format!(
                "{shown}: leaves the database at checksum {}, not {} as it says",
                self.checksum(),
                trailer.post_apply
            )));
        }
        Ok(())
    }

    fn write(&mut self, file: &mut File, page_size: PageSize, page: PageNo, data: &[u8]) -> io::Result<()> {
        file.write_all_at(data, page_size.offset(page))?;
        if self.pages.len() <= page.index() {
            self.pages.resize(page.index() + 1, Checksum::NONE);
        }
        // SQLite's lock bytes are in no checksum.
        if page != page_size.lock_page() {
            let new = page_checksum(page, data);
            self.sum = self.sum.replace(self.pages[page.index()], new);
            self.pages[page.index()] = new;
        }
        Ok(())
    }

    fn truncate(&mut self, commit: u32) {
        for old in self.pages.drain((commit as usize).min(self.pages.len())..) {
            self.sum = self.sum.replace(old, Checksum::NONE);
        }
        self.pages.resize(commit as usize, Checksum::NONE);
    }

    fn checksum(&self) -> Checksum {
        self.sum
    }

    fn len(&self) -> u64 {
        self.page_size.map_or(0, |s| s.file_size(self.pages.len() as u32))
    }
}
