//! What scenarios found: [`Figures`] with their limits, as a table and as JSON.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;

use crate::failure::Result;

/// What a figure must keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Just this.
    Exactly(f64),
    /// Nothing: it is there to be known.
    Free,
}

impl Limit {
    /// Whether `value` keeps it. A value that is no number keeps none but `Free`.
    #[must_use]
    #[allow(clippy::float_cmp, reason = "counts, which are exact")]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Exactly(expected) => value == expected,
            Self::Free => true,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {}", Number(*most)),
            Self::AtLeast(least) => write!(f, ">= {}", Number(*least)),
            Self::Exactly(expected) => write!(f, "= {}", Number(*expected)),
            Self::Free => Ok(()),
        }
    }
}

/// One thing that was measured or counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what; empty for plain counts.
    pub unit: &'static str,
    /// What it must keep.
    pub limit: Limit,
}

/// All figures of a scenario, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, limit: Limit) {
        self.0.push(Figure { name: name.into(), value, unit, limit });
    }

    /// Adds a count.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    pub fn count(&mut self, name: impl Into<String>, count: u64, limit: Limit) {
        self.add(name, count as f64, "", limit);
    }

    /// Adds those of another part, each name with `prefix` in front.
    pub fn append(&mut self, prefix: &str, others: Self) {
        self.0.extend(
            others.0.into_iter().map(|figure| Figure { name: format!("{prefix}{}", figure.name), ..figure }),
        );
    }

    /// Those that keep their limit not.
    pub fn broken(&self) -> impl Iterator<Item = &Figure> {
        self.0.iter().filter(|figure| !figure.limit.holds(figure.value))
    }
}

/// One scenario as it went.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Which.
    pub scenario: &'static str,
    /// Whether it was played to its end and every figure keeps its limit.
    pub passed: bool,
    /// How long it took, in seconds.
    pub secs: f64,
    /// What it found.
    pub figures: Figures,
    /// Why it ended early, if it did.
    pub failure: Option<String>,
}

impl Outcome {
    /// The outcome of what a scenario returned.
    #[must_use]
    pub fn new(scenario: &'static str, secs: f64, played: Result<Figures>) -> Self {
        match played {
            Ok(figures) => {
                let passed = figures.broken().next().is_none();
                Self { scenario, passed, secs, figures, failure: None }
            }
            Err(failure) => {
                let figures = Figures::new();
                Self { scenario, passed: false, secs, figures, failure: Some(failure.to_string()) }
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        writeln!(f, "{} {verdict} after {:.1} s", self.scenario, self.secs)?;
        if let Some(failure) = &self.failure {
            return writeln!(f, "  {failure}");
        }
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["figure", "value", "unit", "limit", ""]);
        for figure in &self.figures.0 {
            let kept = if figure.limit.holds(figure.value) { "" } else { "BROKEN" };
            table.add_row([
                Cell::new(&figure.name),
                Cell::new(Number(figure.value)).set_alignment(CellAlignment::Right),
                Cell::new(figure.unit),
                Cell::new(figure.limit),
                Cell::new(kept),
            ]);
        }
        writeln!(f, "{table}")
    }
}

/// A number for people: whole if it is, else with as many places as its size asks for.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = match self.0.abs() {
            _ if self.0.fract() == 0.0 => 0,
            size if size < 10.0 => 2,
            size if size < 1000.0 => 1,
            _ => 0,
        };
        write!(f, "{:.places$}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_up_to_its_value_and_for_numbers_only() {
        assert!(Limit::AtMost(3.0).holds(3.0) && !Limit::AtMost(3.0).holds(3.1));
        assert!(Limit::AtLeast(3.0).holds(3.0) && !Limit::AtLeast(3.0).holds(2.9));
        assert!(Limit::Exactly(3.0).holds(3.0) && !Limit::Exactly(3.0).holds(4.0));
        assert!(!Limit::AtMost(3.0).holds(f64::NAN) && Limit::Free.holds(f64::NAN));
    }

    #[test]
    fn an_outcome_passes_only_when_all_its_figures_do() {
        let mut figures = Figures::new();
        figures.count("lost", 0, Limit::Exactly(0.0));
        assert!(Outcome::new("s", 0.0, Ok(figures.clone())).passed);
        figures.add("end", 51.0, "ms", Limit::AtMost(50.0));
        let outcome = Outcome::new("s", 0.0, Ok(figures));
        assert!(!outcome.passed);
        assert!(outcome.to_string().contains("BROKEN"), "{outcome}");
    }
}
