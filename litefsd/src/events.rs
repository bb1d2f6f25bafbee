//! The event stream: what `GET /events` and `litefsctl events` show.
//!
//! Owns the JSON of the events and their fan-out; not who makes them (the store's notices and role
//! changes) nor the HTTP response (`http/events_route.rs`). Tested here against the recorded format.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use litefs_store::notice::Change;
use litefs_types::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

/// Events a subscriber may be behind before it is cut off; the original's number.
const SUBSCRIBER_BUFFER: usize = 1024;
/// Subscribers at a time: each costs a connection and up to a buffer of events.
const MAX_SUBSCRIBERS: usize = 1024;

/// Who the primary is, as events and `/info` tell it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RoleView {
    /// This node is the primary.
    pub is_primary: bool,
    /// Host name of the primary that this replica follows; empty on the primary and while there is none.
    pub hostname: String,
}

#[derive(Serialize)]
struct Event<'a, D> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    db: Option<&'a str>,
    data: D,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoleData<'a> {
    is_primary: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TxData {
    #[serde(rename = "txID")]
    txid: String,
    post_apply_checksum: String,
    page_size: u32,
    commit: u32,
    timestamp: String,
}

/// Fans events out to subscribers. Cheap when there are none.
#[derive(Debug, Default)]
pub struct EventHub {
    subscribers: Mutex<Vec<mpsc::Sender<Bytes>>>,
}

impl EventHub {
    /// A stream of events from now on, one line of JSON each, `init` first. It ends when the subscriber
    /// is too slow. `None`: too many subscribers.
    pub fn subscribe(&self, role: &RoleView) -> Option<mpsc::Receiver<Bytes>> {
        // One more than the buffer: the first event must not count against the subscriber.
        let (tx, rx) = mpsc::channel(SUBSCRIBER_BUFFER + 1);
        tx.try_send(role_event("init", role)).ok()?;
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|s| !s.is_closed());
        if subscribers.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        subscribers.push(tx);
        Some(rx)
    }

    /// A transaction became visible. Does not block.
    pub fn tx(&self, change: &Change) {
        self.send(|| {
            line(&Event {
                r#type: "tx",
                db: Some(change.db.as_str()),
                data: TxData {
                    txid: format!("{:016x}", change.pos.txid_raw()),
                    post_apply_checksum: change.pos.checksum().to_string(),
                    page_size: change.page_size.get(),
                    commit: change.commit,
                    timestamp: rfc3339(change.timestamp),
                },
            })
        });
    }

    /// The role, or the primary, changed. Does not block.
    pub fn primary_change(&self, role: &RoleView) {
        self.send(|| role_event("primaryChange", role));
    }

    /// Ends every subscription (shutdown).
    pub fn close(&self) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn send(&self, make: impl FnOnce() -> Bytes) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if subscribers.is_empty() {
            return;
        }
        let event = make();
        // A full buffer ends the subscription: an event stream with a hole would be worse than none.
        subscribers.retain(|s| s.try_send(event.clone()).is_ok());
    }
}

fn role_event(r#type: &'static str, role: &RoleView) -> Bytes {
    let data = RoleData { is_primary: role.is_primary, hostname: &role.hostname };
    line(&Event { r#type, db: None, data })
}

fn line<D: Serialize>(event: &Event<'_, D>) -> Bytes {
    let mut text = escape_html(serde_json::to_string(event).unwrap_or_default());
    text.push('\n');
    Bytes::from(text)
}

/// Go's JSON encoder escapes these inside strings (and they occur nowhere else).
pub(crate) fn escape_html(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// RFC 3339 in UTC with milliseconds whose trailing zeros are cut, e.g. `2026-11-23T00:58:18.96Z`.
/// Years outside 0..=9999, which the format cannot hold, become its first or last instant.
pub fn rfc3339(t: Timestamp) -> String {
    const DAY_MS: i64 = 86_400_000;
    const FIRST: i64 = -62_167_219_200_000; // 0000-01-01T00:00:00Z
    const LAST: i64 = 253_402_300_799_999; // 9999-12-31T23:59:59.999Z
    let ms = t.millis().clamp(FIRST, LAST);
    let (days, in_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    // Proleptic Gregorian calendar from a day count, in eras of 400 years that begin on a first of March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s, frac) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    let frac = format!(".{frac:03}");
    let frac = frac.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{frac}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use litefs_types::{PageSize, Pos};

    fn change(ms: i64) -> Change {
        Change {
            db: "d.db".parse().unwrap(),
            pos: "0000000000000002/c92adba8ff3dabc7".parse::<Pos>().unwrap(),
            page_size: PageSize::DEFAULT,
            commit: 2,
            timestamp: Timestamp::from_millis(ms),
            local: true,
        }
    }

    #[test]
    fn events_are_written_as_recorded() {
        let hub = EventHub::default();
        let replica = RoleView { is_primary: false, hostname: "primaryhost".into() };
        let mut rx = hub.subscribe(&replica).unwrap();
        hub.tx(&change(1_795_395_498_960));
        hub.primary_change(&RoleView { is_primary: true, hostname: String::new() });
        let mut got = String::new();
        while let Ok(b) = rx.try_recv() {
            got.push_str(std::str::from_utf8(&b).unwrap());
        }
        assert_eq!(
            got,
            concat!(
                r#"{"type":"init","data":{"isPrimary":false,"hostname":"primaryhost"}}"#,
                "\n",
                r#"{"type":"tx","db":"d.db","data":{"txID":"0000000000000002","postApplyChecksum":"c92adba8ff3dabc7","pageSize":4096,"commit":2,"timestamp":"2026-11-23T00:58:18.96Z"}}"#,
                "\n",
                r#"{"type":"primaryChange","data":{"isPrimary":true}}"#,
                "\n",
            )
        );
    }

    #[test]
    fn time_stamps_over_the_whole_range() {
        let f = |ms| rfc3339(Timestamp::from_millis(ms));
        assert_eq!(f(0), "1970-01-01T00:00:00Z");
        assert_eq!(f(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(f(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(f(1_795_395_498_876), "2026-11-23T00:58:18.876Z");
        assert_eq!(f(i64::MIN), "0000-01-01T00:00:00Z");
        assert_eq!(f(i64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_slow_subscriber_is_cut_off_and_the_others_are_not() {
        let hub = EventHub::default();
        let mut slow = hub.subscribe(&RoleView::default()).unwrap();
        let mut quick = hub.subscribe(&RoleView::default()).unwrap();
        for i in 0..2000 {
            hub.tx(&change(i));
            while quick.try_recv().is_ok() {}
        }
        let mut n = 0;
        while slow.try_recv().is_ok() {
            n += 1;
        }
        assert_eq!(n, SUBSCRIBER_BUFFER + 1);
        assert!(slow.is_closed() && !quick.is_closed());
    }

    #[test]
    fn html_characters_are_escaped_like_the_original_does() {
        let role = RoleView { is_primary: false, hostname: "<a&b>".into() };
        let e = role_event("init", &role);
        assert!(std::str::from_utf8(&e).unwrap().contains(r"\u003ca\u0026b\u003e"));
    }
}
