//! The obedient application: a line in, its rows and its result code out.

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection};

/// Runs until stdin ends. A failed open is the answer to the first statement, not the end.
pub(crate) fn run(name: &str) -> Result<(), String> {
    let mut connection = open(name);
    let stdin = std::io::stdin();
    for line in stdin.lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let mut out = std::io::stdout().lock();
        let result = match &connection {
            Ok(c) => execute(c, &line, &mut out),
            Err(e) => Err(clone(e)),
        };
        match result {
            Ok(()) => writeln!(out, "ok"),
            Err(e) => {
                let (code, text) = describe(&e);
                writeln!(out, "err {code} {}", text.replace('\n', " "))
            }
        }
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())?;
        if connection.is_err() {
            connection = open(name);
        }
    }
    Ok(())
}

fn open(name: &str) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(name)?;
    // A test that wants to wait says so.
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

fn clone(e: &rusqlite::Error) -> rusqlite::Error {
    let (code, text) = describe(e);
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text))
}

/// Runs all statements of `sql`; rows go to `out`.
pub(crate) fn execute(
    connection: &Connection,
    sql: &str,
    out: &mut impl Write,
) -> Result<(), rusqlite::Error> {
    let mut batch = Batch::new(connection, sql);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let values: Result<Vec<String>, _> = (0..columns).map(|i| row.get_ref(i).map(show)).collect();
            // A closed pipe shows at the next line; the statement itself must run to its end.
            let _ = writeln!(out, "r {}", values?.join("|").replace('\n', " "));
        }
    }
    Ok(())
}

fn show(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => r.to_string(),
        ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
        ValueRef::Blob(b) => b.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

fn describe(e: &rusqlite::Error) -> (i32, String) {
    match e {
        rusqlite::Error::SqliteFailure(f, text) => {
            (f.extended_code, text.clone().unwrap_or_else(|| f.to_string()))
        }
        rusqlite::Error::SqlInputError { error, msg, .. } => (error.extended_code, msg.clone()),
        other => (1, other.to_string()),
    }
}
