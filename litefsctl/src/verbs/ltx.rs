//! `ltx list|dump|verify`: looking into the log and into LTX files.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use litefs_api::{DEFAULT_LTX_LIMIT, LtxEntry, LtxList, rfc3339};
use litefs_ltx::{Decoder, FileName, Header, Verified, detect, verify_any};
use litefs_types::{Checksum, DbName, Txid};
use serde_json::{Value, json};

use super::{Context, ltx_apply, print_json};
use crate::check::reason;
use crate::cli::LtxVerb;
use crate::exit::Failure;
use crate::output::{Table, Tone};
use crate::units::bytes;

pub(crate) async fn run(ctx: &Context, verb: LtxVerb) -> Result<(), Failure> {
    match verb {
        LtxVerb::List { name: Some(name), from, .. } => list_log(ctx, &name, from).await,
        LtxVerb::List { name: None, dir, from } => list_dir(ctx, &dir.unwrap_or_default(), from),
        LtxVerb::Dump { name: Some(name), txid: Some(txid), .. } => {
            let mut file = Vec::new();
            ctx.client()?.ltx(&name, txid, &mut file).await?;
            dump(ctx, &format!("{name} {txid}"), Cursor::new(file))
        }
        LtxVerb::Dump { path, .. } => {
            let path = path.unwrap_or_default();
            dump(ctx, &path.display().to_string(), open(&path)?)
        }
        LtxVerb::Verify { paths } => verify(ctx, &paths),
        LtxVerb::Apply { db, paths } => ltx_apply::run(ctx, &db, &paths),
    }
}

/// A file for reading.
pub(crate) fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    let file = File::open(path);
    file.map(|f| BufReader::with_capacity(1 << 16, f))
        .map_err(|e| Failure::failed(format!("cannot open {}: {}", path.display(), reason(&e))))
}

async fn list_log(ctx: &Context, name: &DbName, from: Option<Txid>) -> Result<(), Failure> {
    let client = ctx.client()?;
    let mut all = LtxList { entries: Vec::new(), next: None };
    let mut from = from;
    loop {
        let page = client.ltx_list(name, from, DEFAULT_LTX_LIMIT).await?;
        let next = page.next.as_deref().and_then(|t| t.parse::<Txid>().ok());
        // A page that does not lead on must not be asked for again.
        let advanced = !page.entries.is_empty() && next > from;
        all.entries.extend(page.entries);
        if next.is_none() || !advanced {
            break;
        }
        from = next;
    }
    print_list(ctx, &all)
}

fn list_dir(ctx: &Context, dir: &Path, from: Option<Txid>) -> Result<(), Failure> {
    let failed =
        |e: std::io::Error| Failure::failed(format!("cannot read {}: {}", dir.display(), reason(&e)));
    let mut found: Vec<(FileName, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<FileName>().ok())
            && from.is_none_or(|t| name.max >= t)
        {
            found.push((name, path));
        }
    }
    found.sort_by_key(|(name, _)| (name.min, name.max));
    let mut entries = Vec::new();
    for (_, path) in found {
        let size = std::fs::metadata(&path).map(|m| m.len()).map_err(failed)?;
        let v = verify_any(open(&path)?).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        entries.push(entry(&v, size));
    }
    print_list(ctx, &LtxList { entries, next: None })
}

fn entry(v: &Verified, size: u64) -> LtxEntry {
    let h = &v.header;
    LtxEntry {
        min_txid: h.min_txid.to_string(),
        max_txid: h.max_txid.to_string(),
        pre_checksum: h.pre_apply.to_string(),
        post_checksum: v.trailer.post_apply.to_string(),
        page_size: h.page_size.get(),
        commit: h.commit,
        timestamp: rfc3339(h.timestamp),
        size,
    }
}

fn print_list(ctx: &Context, list: &LtxList) -> Result<(), Failure> {
    if ctx.global.json {
        return print_json(list);
    }
    let mut table = Table::new(&["TXID", "PRE", "POST", "PAGE", "PAGES", "SIZE", "TIME"], &[3, 4, 5]);
    for e in &list.entries {
        let txid = if e.min_txid == e.max_txid {
            e.min_txid.clone()
        } else {
            format!("{}-{}", e.min_txid, e.max_txid)
        };
        table.row(vec![
            txid,
            e.pre_checksum.clone(),
            e.post_checksum.clone(),
            e.page_size.to_string(),
            e.commit.to_string(),
            bytes(e.size),
            e.timestamp.clone(),
        ]);
    }
    for line in table.lines(ctx.style) {
        println!("{line}");
    }
    Ok(())
}

fn header_json(h: &Header) -> Value {
    json!({
        "page_size": h.page_size.get(),
        "commit": h.commit,
        "min_txid": h.min_txid.to_string(),
        "max_txid": h.max_txid.to_string(),
        "timestamp": rfc3339(h.timestamp),
        "pre_checksum": h.pre_apply.to_string(),
        "node_id": h.node_id.to_string(),
        "wal": h.wal.map(|w| json!({
            "offset": w.offset, "size": w.size, "salt": [format!("{:08x}", w.salt[0]), format!("{:08x}", w.salt[1])],
        })),
    })
}

/// Prints everything up to the first damage, then says what is wrong.
fn dump(ctx: &Context, shown: &str, mut from: impl Read + Seek) -> Result<(), Failure> {
    let bad = |e: litefs_ltx::LtxError| Failure::failed(format!("{shown}: {e}"));
    let format = detect(&mut from).map_err(bad)?;
    from.rewind().map_err(|e| Failure::failed(format!("{shown}: {e}")))?;
    let mut decoder = Decoder::with_format(from, format).map_err(bad)?;
    let header = header_json(decoder.header());
    let mut pages = Vec::new();
    let mut data = Vec::new();
    let mut damage = None;
    loop {
        match decoder.next_page(&mut data) {
            Ok(Some(page)) => pages.push((page.page.get(), page.checksum)),
            Ok(None) => break,
            Err(e) => {
                damage = Some(e);
                break;
            }
        }
    }
    let trailer = match damage {
        Some(e) => Err(e),
        None => decoder.finish().map(|v| v.trailer),
    };
    if ctx.global.json {
        let pages: Vec<Value> =
            pages.iter().map(|(n, c)| json!({"page": n, "checksum": c.to_string()})).collect();
        let (end, damage) = match &trailer {
            Ok(t) => (
                json!({"post_checksum": t.post_apply.to_string(), "file_checksum": t.file_checksum.to_string()}),
                Value::Null,
            ),
            Err(e) => (Value::Null, json!(e.to_string())),
        };
        print_json(
            &json!({"format": format!("{format:?}"), "header": header, "pages": pages, "trailer": end, "damage": damage}),
        )?;
    } else {
        println!("{}", ctx.style.paint(Tone::Strong, &format!("# header ({format:?})")));
        if let Value::Object(fields) = &header {
            for (key, value) in fields {
                println!("{key:<13}{}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
        println!("{}", ctx.style.paint(Tone::Strong, "# pages"));
        for (n, checksum) in &pages {
            println!("{n:>10}  {checksum}");
        }
        if let Ok(t) = &trailer {
            println!("{}", ctx.style.paint(Tone::Strong, "# trailer"));
            println!("post_checksum {}\nfile_checksum {}", t.post_apply, t.file_checksum);
        }
    }
    trailer.map(drop).map_err(bad)
}

fn verify(ctx: &Context, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut results = Vec::new();
    let mut end: Option<(Txid, Checksum)> = None;
    for path in paths {
        let result = open(path).and_then(|f| verify_any(f).map_err(|e| Failure::failed(e.to_string())));
        let problem = match &result {
            Err(e) => Some(e.message.clone()),
            Ok(v) => follows(end, v).err(),
        };
        if let Ok(v) = &result {
            end = Some((v.header.max_txid, v.trailer.post_apply));
        }
        results.push((path, problem));
    }
    let good = results.iter().all(|(_, p)| p.is_none());
    if ctx.global.json {
        let list: Vec<Value> =
            results.iter().map(|(path, p)| json!({"path": path, "ok": p.is_none(), "problem": p})).collect();
        print_json(&list)?;
    } else {
        for (path, problem) in &results {
            match problem {
                None if ctx.global.quiet => {}
                None => println!("{}: {}", path.display(), ctx.style.paint(Tone::Good, "ok")),
                Some(p) => println!("{}: {}", path.display(), ctx.style.paint(Tone::Bad, p)),
            }
        }
    }
    if good { Ok(()) } else { Err(Failure::silent()) }
}

/// Whether a file continues the one before it. A snapshot starts anew.
pub(crate) fn follows(end: Option<(Txid, Checksum)>, v: &Verified) -> Result<(), String> {
    let Some((last, post)) = end else { return Ok(()) };
    if v.header.is_snapshot() {
        return Ok(());
    }
    if v.header.min_txid != last.next() {
        return Err(format!(
            "starts at transaction {}, but the file before it ends at {last}",
            v.header.min_txid
        ));
    }
    if !v.header.no_checksum && v.header.pre_apply != post {
        return Err(format!(
            "expects the database at checksum {}, but the file before it leaves {post}",
            v.header.pre_apply
        ));
    }
    Ok(())
}
