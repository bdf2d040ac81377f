//! The table, and the same as JSON.

use std::fs;

use serde::Serialize;

use crate::conduct::Row;
use crate::spec::{Case, System};

const HEADINGS: &str =
    "system             via   rate /s      x ours   p50 us     p99 us     cpu us/msg  peak MiB  lost\n";

/// Everything that `--json` writes.
#[derive(Serialize)]
pub struct Report<'a> {
    pub host: Host,
    /// Package and version of each system.
    pub versions: Vec<(String, String)>,
    pub command: String,
    pub skipped: &'a [(String, String)],
    pub results: &'a [Row],
}

/// The machine.
#[derive(Serialize)]
pub struct Host {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Before the first measurement: what else the machine had to do.
    pub load_average: String,
}

impl Host {
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split(':').nth(1)).unwrap_or_default().trim().to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The versions that this program was built with, and that of the broker.
pub fn versions(systems: &[System]) -> Vec<(String, String)> {
    let lock = include_str!("../Cargo.lock");
    let mut versions: Vec<(String, String)> = Vec::new();
    for system in systems {
        let package = system.package();
        if versions.iter().any(|(known, _)| known == package) {
            continue;
        }
        let version =
            lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{package}\"\n")));
        let version = version.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
        versions.push((package.to_owned(), version.unwrap_or("unknown").to_owned()));
        if *system == System::Nats
            && let Some(server) = crate::systems::nats_server()
            && let Ok(output) = std::process::Command::new(server).arg("--version").output()
        {
            let version = String::from_utf8_lossy(&output.stdout);
            let version = version.trim().trim_start_matches("nats-server: v");
            versions.push(("nats-server".into(), version.to_owned()));
        }
        if *system == System::Zmq {
            versions.push(("libzmq (in zmq)".into(), libzmq_version()));
        }
    }
    versions
}

#[cfg(feature = "zmq")]
fn libzmq_version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("{major}.{minor}.{patch}")
}

#[cfg(not(feature = "zmq"))]
fn libzmq_version() -> String {
    "left out".into()
}

/// The table as text, one part for each case.
pub fn table(cases: &[Case], rows: &[Row]) -> String {
    let mut text = String::new();
    for case in cases {
        let of_case =
            |row: &&Row| row.workload == case.workload.name() && row.outstanding == case.outstanding;
        let rows: Vec<_> = rows.iter().filter(of_case).collect();
        if rows.is_empty() {
            continue;
        }
        text += &format!("\n{}\n", case.title());
        text += HEADINGS;
        for row in &rows {
            text += &line(row);
        }
    }
    text
}

fn line(row: &Row) -> String {
    let start = format!("{:<18} {:<5} ", row.system, row.transport);
    let error = row.error.as_ref().map(|error| format!("  ! {error}")).unwrap_or_default();
    if row.runs == 0 {
        return format!("{start}failed{error}\n");
    }
    let optional = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.1}"));
    format!(
        "{start}{:<12} {:<8} {:<10} {:<10} {:<11.3} {:<9.1} {}{error}\n",
        grouped(row.rate_per_s),
        row.ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
        optional(row.p50_us),
        optional(row.p99_us),
        row.cpu_us_per_msg,
        row.peak_rss_kib as f64 / 1024.0,
        row.lost,
    )
}

/// A rate with its thousands apart.
fn grouped(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !text.is_empty() {
            text.push(' ');
        }
        text += &String::from_utf8_lossy(group);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_grouped_by_thousands() {
        assert_eq!(grouped(999.6), "1 000");
        assert_eq!(grouped(12_345_678.0), "12 345 678");
        assert_eq!(grouped(7.0), "7");
    }

    #[test]
    fn every_version_is_found_in_the_lock_file() {
        for (package, version) in versions(&System::ALL) {
            assert!(
                version.starts_with(|c: char| c.is_ascii_digit()) || version == "left out",
                "{package}: {version}"
            );
        }
    }
}
