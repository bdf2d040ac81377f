//! The result of a benchmark: rows for machines (JSON) and a table for people.

use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::spec::System;

/// All that was measured, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub host: Host,
    /// One row for each case and system; a case's rows stand together.
    pub results: Vec<Row>,
    /// What has to be known to read the figures: lines below the table.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// The machine that a report comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name, or `unknown`.
    pub cpu_model: String,
    /// Threads that can run at once in this process.
    pub cores: usize,
    /// The kernel's release, or `unknown`.
    pub kernel: String,
}

impl Host {
    /// Describes this machine.
    pub fn read() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu_model: cpu_model(&cpu_info).unwrap_or("unknown").to_owned(),
            cores: available_parallelism().map_or(1, Into::into),
            kernel: Some(kernel.trim()).filter(|k| !k.is_empty()).unwrap_or("unknown").to_owned(),
        }
    }
}

fn cpu_model(cpu_info: &str) -> Option<&str> {
    let line = cpu_info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim()).filter(|name| !name.is_empty())
}

/// The median run of one system on one case.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    #[serde(flatten)]
    pub case: Case,
    /// Of which system.
    pub system: System,
    /// Messages a second that were answered, or for one-way handled.
    pub rate_per_s: f64,
    /// Median round trip in microseconds; null where nothing is answered.
    pub p50_us: Option<f64>,
    /// 99th percentile of round trips.
    pub p99_us: Option<f64>,
    /// 99.9th percentile of round trips.
    pub p999_us: Option<f64>,
    /// CPU time of both processes, user and system, divided by the messages, in microseconds.
    pub cpu_us_per_msg: f64,
    /// Peak resident memory of both processes together, in KiB.
    pub peak_rss_kib: u64,
    /// Messages sent but not handled or not answered, in all runs of this row; must be 0.
    pub lost: u64,
    /// For idle links: memory that each has added to both processes, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_kib: Option<f64>,
    /// For a cohort: the CPU time of its leader's process alone, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_cpu_us_per_msg: Option<f64>,
}

/// The headings, each column's least width, and the last two only where a row has something to say in them.
const COLUMNS: [(&str, usize); 9] = [
    ("rate/s", 10),
    ("p50 us", 8),
    ("p99 us", 8),
    ("p99.9 us", 8),
    ("cpu us/msg", 10),
    ("peak KiB", 8),
    ("lost", 5),
    ("KiB/link", 8),
    ("leader us", 9),
];

impl Report {
    /// Messages lost in all runs together. Anything but 0 is a defect of the system that lost them.
    pub fn lost(&self) -> u64 {
        self.results.iter().map(|row| row.lost).sum()
    }

    /// The report as text: for each case a line for each system, and where there are both the ratio of
    /// dynamo-am to raw in every column (for the rate more is better, for all else less).
    pub fn table(&self) -> String {
        let Host { cpu_model, cores, kernel } = &self.host;
        let label_width = self.results.iter().map(|row| row.case.to_string().len()).max().unwrap_or(0).max(8);
        let mut text = format!("{cpu_model}, {cores} cores, Linux {kernel}\n\n");
        let mut headings = COLUMNS.map(|(heading, _)| heading.to_owned());
        if self.results.iter().all(|row| row.link_kib.is_none()) {
            headings[7].clear();
        }
        if self.results.iter().all(|row| row.leader_cpu_us_per_msg.is_none()) {
            headings[8].clear();
        }
        push_line(&mut text, label_width, "workload", "system", &headings);
        for rows in self.results.chunk_by(|a, b| a.case == b.case) {
            let mut label = rows.first().map(|row| row.case.to_string()).unwrap_or_default();
            for row in rows {
                push_line(&mut text, label_width, &label, &row.system.to_string(), &row.cells());
                label.clear();
            }
            let of = |system| rows.iter().find(|row| row.system == system);
            if let (Some(raw), Some(ours)) = (of(System::Raw), of(System::DynamoAm)) {
                push_line(&mut text, label_width, "", "ratio", &ours.ratio_cells(raw));
            }
        }
        for note in &self.notes {
            text.push('\n');
            text.push_str(note);
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn cells(&self) -> [String; 9] {
        let micros = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        [
            grouped(self.rate_per_s.round() as u64),
            micros(self.p50_us),
            micros(self.p99_us),
            micros(self.p999_us),
            format!("{:.3}", self.cpu_us_per_msg),
            grouped(self.peak_rss_kib),
            grouped(self.lost),
            self.link_kib.map_or_else(String::new, |kib| format!("{kib:.1}")),
            self.leader_cpu_us_per_msg.map_or_else(String::new, |us| format!("{us:.1}")),
        ]
    }

    fn ratio_cells(&self, raw: &Self) -> [String; 9] {
        let ratio = |ours: Option<f64>, raw: Option<f64>| match (ours, raw) {
            (Some(ours), Some(raw)) if raw > 0.0 => format!("{:.2}x", ours / raw),
            _ => "-".to_owned(),
        };
        let where_known = |ours: Option<f64>, raw: Option<f64>| match (ours, raw) {
            (None, None) => String::new(),
            (ours, raw) => ratio(ours, raw),
        };
        [
            ratio(Some(self.rate_per_s), Some(raw.rate_per_s)),
            ratio(self.p50_us, raw.p50_us),
            ratio(self.p99_us, raw.p99_us),
            ratio(self.p999_us, raw.p999_us),
            ratio(Some(self.cpu_us_per_msg), Some(raw.cpu_us_per_msg)),
            ratio(Some(self.peak_rss_kib as f64), Some(raw.peak_rss_kib as f64)),
            String::new(),
            where_known(self.link_kib, raw.link_kib),
            where_known(self.leader_cpu_us_per_msg, raw.leader_cpu_us_per_msg),
        ]
    }
}

fn push_line(text: &mut String, label_width: usize, label: &str, system: &str, cells: &[String; 9]) {
    let mut line = format!("{label:<label_width$}  {system:<9}");
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        line.push_str(&format!("  {cell:>width$}"));
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// A number with its thousands apart: `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Dispatch, Place, Route, Workload};

    fn row(system: System, rate_per_s: f64, p50_us: Option<f64>) -> Row {
        Row {
            case: if p50_us.is_some() { Case::rtt(Place::Main) } else { Case::oneway(Dispatch::Inline) },
            system,
            rate_per_s,
            p50_us,
            p99_us: p50_us.map(|us| us * 2.0),
            p999_us: p50_us.map(|us| us * 3.0),
            cpu_us_per_msg: 0.25,
            peak_rss_kib: 4_096,
            lost: 0,
            link_kib: None,
            leader_cpu_us_per_msg: None,
        }
    }

    fn report() -> Report {
        Report {
            host: Host { cpu_model: "Test CPU".into(), cores: 2, kernel: "6.1".into() },
            results: vec![
                row(System::Raw, 20_000.0, Some(40.0)),
                row(System::DynamoAm, 16_000.0, Some(50.0)),
                row(System::Raw, 20_000_000.0, None),
            ],
            notes: vec!["raw is not what it seems".into()],
        }
    }

    #[test]
    fn the_table_shows_both_systems_and_their_ratio() {
        let table = report().table();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let find = |first: &str| lines.iter().find(|line| line.first() == Some(&first)).unwrap().join(" ");
        assert_eq!(find("dynamo-am"), "dynamo-am 16 000 50.0 100.0 150.0 0.250 4 096 0");
        assert_eq!(find("ratio"), "ratio 0.80x 1.25x 1.25x 1.25x 1.00x 1.00x");
        assert_eq!(find("oneway"), "oneway tcp 64 B inline raw 20 000 000 - - - 0.250 4 096 0");
        assert!(table.ends_with("\n\nraw is not what it seems\n") && !table.contains("KiB/link"), "{table}");
        assert_eq!(table.matches("ratio").count(), 1, "a ratio needs both systems:\n{table}");
    }

    #[test]
    fn memory_of_links_has_a_column_where_it_was_measured() {
        let idle = |system, kib| Row {
            case: Case::new(Workload::Idle { links: 10 }),
            link_kib: Some(kib),
            ..row(system, 900.0, Some(50.0))
        };
        let results = vec![idle(System::Raw, 8.0), idle(System::DynamoAm, 20.0)];
        let table = Report { results, ..report() }.table();
        let ends: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(ends.get(1..5), Some(&["KiB/link", "8.0", "20.0", "2.50x"][..]), "{table}");
    }

    #[test]
    fn the_leaders_cpu_has_a_column_where_there_is_a_leader() {
        let cohort = |system, us| Row {
            case: Case::new(Workload::Cohort { ranks: 4, route: Route::Flat }),
            leader_cpu_us_per_msg: Some(us),
            ..row(system, 900.0, Some(50.0))
        };
        let results = vec![cohort(System::Raw, 20.0), cohort(System::DynamoAm, 30.0)];
        let table = Report { results, ..report() }.table();
        let ends: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(ends.get(1..5), Some(&["us", "20.0", "30.0", "1.50x"][..]), "{table}");
        assert!(!table.contains("KiB/link"), "{table}");
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["host"], serde_json::json!({"cpu_model": "Test CPU", "cores": 2, "kernel": "6.1"}));
        assert_eq!(
            json["results"][1],
            serde_json::json!({
                "workload": "rtt", "place": "main", "busy_poll": false, "transport": "tcp", "payload_bytes": 64,
                "system": "dynamo-am", "rate_per_s": 16_000.0, "p50_us": 50.0, "p99_us": 100.0,
                "p999_us": 150.0, "cpu_us_per_msg": 0.25, "peak_rss_kib": 4_096, "lost": 0,
            })
        );
        assert!(json["results"][2]["p50_us"].is_null());
    }

    #[test]
    fn the_processor_is_named_if_the_kernel_names_it() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n"), Some("Some CPU @ 2GHz"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }
}
