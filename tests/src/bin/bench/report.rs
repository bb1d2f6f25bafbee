//! Medians, spread, and how they are shown.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One run: a figure, and the 99th percentile of its single operations in µs where that means something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) p99_us: Option<f64>,
}

/// One line of the result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) raw: Vec<Sample>,
    pub(crate) mount: Vec<Sample>,
}

impl Row {
    /// A row without a raw counterpart.
    pub(crate) fn alone(name: &'static str, unit: &'static str, values: &[f64]) -> Self {
        let mount = values.iter().map(|v| Sample { value: *v, p99_us: None }).collect();
        Self { name, unit, raw: Vec::new(), mount }
    }

    fn ratio(&self) -> Option<f64> {
        Some(median(&values(&self.mount))? / median(&values(&self.raw))?)
    }

    /// Lowest and highest ratio of a round (raw and mount of one round ran next to each other).
    fn ratio_spread(&self) -> Option<(f64, f64)> {
        let ratios: Vec<f64> = self.mount.iter().zip(&self.raw).map(|(m, r)| m.value / r.value).collect();
        spread(&ratios)
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some(f64::midpoint(sorted[n / 2 - 1], sorted[n / 2])),
    }
}

/// The value that `percent` of all are at or below.
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * percent / 100.0).ceil() as usize).copied().unwrap_or(0.0)
}

fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().reduce(f64::min)?;
    Some((low, values.iter().copied().reduce(f64::max)?))
}

fn values(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|s| s.value).collect()
}

fn p99(samples: &[Sample]) -> Option<f64> {
    median(&samples.iter().filter_map(|s| s.p99_us).collect::<Vec<_>>())
}

/// `{"rows":[…]}`; the five agreed keys, then what helps to judge them.
pub(crate) fn json(rows: &[Row]) -> Value {
    let round = |v: Option<f64>| v.map(|v| (v * 1000.0).round() / 1000.0);
    let rows: Vec<Value> = rows
        .iter()
        .map(|r| {
            json!({
                "name": r.name,
                "raw": round(median(&values(&r.raw))),
                "mount": round(median(&values(&r.mount))),
                "ratio": round(r.ratio()),
                "unit": r.unit,
                "rounds": r.mount.len(),
                "raw_spread": spread(&values(&r.raw)).map(|(a, b)| [round(Some(a)), round(Some(b))]),
                "mount_spread": spread(&values(&r.mount)).map(|(a, b)| [round(Some(a)), round(Some(b))]),
                "ratio_spread": r.ratio_spread().map(|(a, b)| [round(Some(a)), round(Some(b))]),
                "raw_p99_us": round(p99(&r.raw)),
                "mount_p99_us": round(p99(&r.mount)),
            })
        })
        .collect();
    json!({ "rows": rows })
}

/// The same for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<22} {:>10} {:>10} {:>6}  {:<9} {:>19} {:>12} {:>12} {:>6}\n",
        "name", "raw", "mount", "ratio", "unit", "mount min..max", "raw p99 µs", "mount p99", "ratios"
    );
    for r in rows {
        let cell = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), short);
        let range = |v: Option<(f64, f64)>| {
            v.map_or_else(|| "-".to_owned(), |(a, b)| format!("{}..{}", short(a), short(b)))
        };
        let _ = writeln!(
            text,
            "{:<22} {:>10} {:>10} {:>6}  {:<9} {:>19} {:>12} {:>12} {:>6}",
            r.name,
            cell(median(&values(&r.raw))),
            cell(median(&values(&r.mount))),
            r.ratio().map_or_else(|| "-".to_owned(), |v| format!("{v:.2}")),
            r.unit,
            range(spread(&values(&r.mount))),
            cell(p99(&r.raw)),
            cell(p99(&r.mount)),
            r.ratio_spread().map_or_else(|| "-".to_owned(), |(a, b)| format!("{a:.2}..{b:.2}")),
        );
    }
    text
}

fn short(v: f64) -> String {
    if v.abs() >= 100.0 {
        format!("{v:.0}")
    } else if v.abs() >= 1.0 {
        format!("{v:.1}")
    } else {
        format!("{v:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let mut hundred: Vec<f64> = (0..101).map(f64::from).collect();
        assert!((percentile(&mut hundred, 99.0) - 99.0).abs() < 1e-9);
    }

    #[test]
    fn the_json_has_the_agreed_keys() {
        let s = |value| Sample { value, p99_us: Some(7.0) };
        let row = Row { name: "bulk-wal", unit: "MB/s", raw: vec![s(4.0)], mount: vec![s(3.0)] };
        let v = json(&[row, Row::alone("rss", "MB", &[12.0])]);
        assert_eq!(v["rows"][0]["ratio"], 0.75);
        assert_eq!(v["rows"][1]["raw"], Value::Null);
        assert_eq!(v["rows"][1]["ratio"], Value::Null);
        assert_eq!(v["rows"][1]["mount"], 12.0);
    }
}
