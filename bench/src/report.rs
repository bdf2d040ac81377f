//! The result of a benchmark: rows for machines (JSON) and a table for people.

use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::spec::{Case, System};

/// All that was measured, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub host: Host,
    /// One row for each case and system; a case's rows stand together.
    pub results: Vec<Row>,
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
}

const COLUMNS: [&str; 7] = ["rate/s", "p50 us", "p99 us", "p99.9 us", "cpu us/msg", "peak KiB", "lost"];

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
        push_line(&mut text, label_width, "workload", "system", &COLUMNS.map(str::to_owned));
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
        text
    }
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let micros = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        [
            grouped(self.rate_per_s.round() as u64),
            micros(self.p50_us),
            micros(self.p99_us),
            micros(self.p999_us),
            format!("{:.3}", self.cpu_us_per_msg),
            grouped(self.peak_rss_kib),
            grouped(self.lost),
        ]
    }

    fn ratio_cells(&self, raw: &Self) -> [String; 7] {
        let ratio = |ours: Option<f64>, raw: Option<f64>| match (ours, raw) {
            (Some(ours), Some(raw)) if raw > 0.0 => format!("{:.2}x", ours / raw),
            _ => "-".to_owned(),
        };
        [
            ratio(Some(self.rate_per_s), Some(raw.rate_per_s)),
            ratio(self.p50_us, raw.p50_us),
            ratio(self.p99_us, raw.p99_us),
            ratio(self.p999_us, raw.p999_us),
            ratio(Some(self.cpu_us_per_msg), Some(raw.cpu_us_per_msg)),
            ratio(Some(self.peak_rss_kib as f64), Some(raw.peak_rss_kib as f64)),
            String::new(),
        ]
    }
}

fn push_line(text: &mut String, label_width: usize, label: &str, system: &str, cells: &[String; 7]) {
    let [rate, p50, p99, p999, cpu, peak, lost] = cells;
    let line = format!(
        "{label:<label_width$}  {system:<9}  {rate:>10}  {p50:>8}  {p99:>8}  {p999:>8}  {cpu:>10}  {peak:>8}  {lost:>5}"
    );
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
    use crate::spec::Place;

    fn row(system: System, rate_per_s: f64, p50_us: Option<f64>) -> Row {
        Row {
            case: if p50_us.is_some() { Case::rtt(Place::Main) } else { Case::oneway() },
            system,
            rate_per_s,
            p50_us,
            p99_us: p50_us.map(|us| us * 2.0),
            p999_us: p50_us.map(|us| us * 3.0),
            cpu_us_per_msg: 0.25,
            peak_rss_kib: 4_096,
            lost: 0,
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
        }
    }

    #[test]
    fn the_table_shows_both_systems_and_their_ratio() {
        let table = report().table();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let find = |first: &str| lines.iter().find(|line| line.first() == Some(&first)).unwrap().join(" ");
        assert_eq!(find("dynamo-am"), "dynamo-am 16 000 50.0 100.0 150.0 0.250 4 096 0");
        assert_eq!(find("ratio"), "ratio 0.80x 1.25x 1.25x 1.25x 1.00x 1.00x");
        assert_eq!(find("oneway"), "oneway tcp 64 B raw 20 000 000 - - - 0.250 4 096 0");
        assert_eq!(table.matches("ratio").count(), 1, "a ratio needs both systems:\n{table}");
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["host"], serde_json::json!({"cpu_model": "Test CPU", "cores": 2, "kernel": "6.1"}));
        assert_eq!(
            json["results"][1],
            serde_json::json!({
                "workload": "rtt", "transport": "tcp", "place": "main", "payload_bytes": 64, "outstanding": 1,
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
