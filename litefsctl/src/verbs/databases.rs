//! `databases`

use litefs_api::DatabaseStatus;

use super::{Context, print_json};
use crate::exit::Failure;
use crate::output::{Style, Table, Tone, printable};
use crate::units::bytes;

pub(crate) async fn run(ctx: &Context) -> Result<(), Failure> {
    let list = ctx.client()?.databases().await?;
    if ctx.global.json {
        return print_json(&list);
    }
    for line in table(&list.databases, ctx.style) {
        println!("{line}");
    }
    Ok(())
}

/// The databases as a table, troubles behind it.
pub(crate) fn table(databases: &[DatabaseStatus], style: Style) -> Vec<String> {
    let header = ["DATABASE", "SIZE", "PAGE", "MODE", "TXID", "CHECKSUM", "LOG", "OPEN", "LAST CHANGE"];
    let mut table = Table::new(&header, &[1, 2, 6, 7]);
    for d in databases {
        table.row(vec![
            d.name.clone(),
            if d.dropped { "dropped".to_owned() } else { bytes(d.size) },
            d.page_size.to_string(),
            d.journal_mode.clone(),
            d.position.txid.clone(),
            d.position.checksum.clone(),
            bytes(d.log.bytes),
            d.open_handles.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            d.last_change.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut lines = table.lines(style);
    if databases.is_empty() {
        lines = vec!["no databases".to_owned()];
    }
    for d in databases {
        if let Some(trouble) = &d.trouble {
            lines.push(style.paint(Tone::Bad, &printable(&format!("{}: {trouble}", d.name))));
        }
    }
    lines
}
