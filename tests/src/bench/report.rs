//! Figures of a bench: collected by workload, side and quantity, reported as medians and as ratios to the disk beneath.

use super::pair::Side;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// All figures, in the order in which quantities were first entered.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    last: Option<String>,
}

struct Row {
    workload: &'static str,
    what: String,
    unit: &'static str,
    figures: BTreeMap<Side, Vec<f64>>,
}

impl Row {
    fn median(&self, side: Side) -> Option<f64> {
        self.figures.get(&side).and_then(|figures| quantile(figures, 0.5))
    }
}

/// The figure below which a part of all lies.
pub(super) fn quantile(figures: &[f64], part: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (part * (sorted.len().checked_sub(1)?) as f64).round();
    sorted.get(at as usize).copied()
}

impl Report {
    pub(super) fn enter(&mut self, workload: &'static str, side: Side, what: &str, unit: &'static str, figure: f64) {
        let found = self.rows.iter().position(|row| row.workload == workload && row.what == what);
        let at = found.unwrap_or_else(|| {
            self.rows.push(Row { workload, what: what.to_owned(), unit, figures: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[at].figures.entry(side).or_default().push(figure);
        self.last = Some(what.to_owned());
    }

    /// The quantity that was entered last.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The medians of one workload; seconds also as ratios to native.
    pub(super) fn table(&self, workload: &str) -> String {
        let rows = || self.rows.iter().filter(|row| row.workload == workload);
        let sides: BTreeSet<Side> = rows().flat_map(|row| row.figures.keys().copied()).collect();
        let heads: String = sides.iter().map(|side| format!(" {side:>12}")).collect();
        let mut text = format!("  {:44}{heads} {:>9}\n", "median", "mount ×");
        for row in rows() {
            let cell = |side: &Side| row.median(*side).map_or(String::new(), |figure| shown(figure, row.unit));
            let cells: String = sides.iter().map(|side| format!(" {:>12}", cell(side))).collect();
            let ratio = row.median(Side::Native).filter(|native| *native > 0.0).zip(row.median(Side::Mount));
            let ratio = ratio
                .filter(|_| row.unit == "s")
                .map_or(String::new(), |(native, mount)| format!("{:.2}", mount / native));
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {:44}{cells} {ratio:>9}", row.what);
        }
        text
    }

    /// Everything that was entered.
    pub(super) fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let figures: serde_json::Map<String, serde_json::Value> =
                row.figures.iter().map(|(side, figures)| (side.to_string(), json!(figures))).collect();
            json!({"workload": row.workload, "quantity": row.what, "unit": row.unit.trim(), "figures": figures})
        });
        serde_json::Value::Array(rows.collect()).to_string()
    }
}

fn shown(figure: f64, unit: &str) -> String {
    match unit.trim() {
        "s" if figure < 0.1 => format!("{:.2} ms", figure * 1000.0),
        "KiB" if figure >= 10_240.0 => format!("{:.1} MiB", figure / 1024.0),
        "" => format!("{figure:.0}"),
        unit => format!("{figure:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let figures = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(quantile(&figures, 0.5), Some(3.0));
        assert_eq!(quantile(&figures, 0.99), Some(5.0));
        assert_eq!(quantile(&figures, 0.0), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_ratio_is_that_of_the_medians() {
        let mut report = Report::default();
        for (side, figure) in [(Side::Native, 1.0), (Side::Mount, 3.0), (Side::Native, 1.0), (Side::Mount, 3.0)] {
            report.enter("w", side, "copying", "s", figure);
        }
        let table = report.table("w");
        assert!(table.contains("1.00 s") && table.contains("3.00 s") && table.trim_end().ends_with("3.00"), "{table}");
    }
}
