//! What goes to standard output: whole writes that are flushed and whose errors are reported, text of peers made
//! safe for terminals, JSON laid out without changing a number or the order of a key.

use std::io::{self, Write};
use std::time::Duration;

/// Writes everything and flushes, so that a reader at the other end of a pipe sees it now.
///
/// # Errors
///
/// Those of standard output, a closed pipe among them.
pub(crate) fn print(octets: impl AsRef<[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(octets.as_ref())?;
    stdout.flush()
}

/// Writes to standard error. There is nobody to tell if that fails.
pub(crate) fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `text` with control characters escaped: a peer chose it, and a terminal would obey them.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// A duration for people, with a unit that fits.
pub(crate) fn human(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1e3 {
        format!("{micros:.1} µs")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// A duration for programs: microseconds, to a tenth.
pub(crate) fn micros(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

/// Whether the octets are one JSON value.
pub(crate) fn check_json(octets: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<serde::de::IgnoredAny>(octets).map(drop)
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Indented by two.
    Pretty,
    /// Without any white space between tokens.
    OneLine,
}

/// JSON laid out anew, or `None` if the octets are no JSON. Tokens are copied, not parsed: numbers of any length,
/// the order of keys and keys that occur twice stay as they came.
pub(crate) fn lay_out(octets: &[u8], layout: Layout) -> Option<Vec<u8>> {
    check_json(octets).ok()?;
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 4);
    let mut depth = 0usize;
    let mut rest = octets;
    let mut last = b' ';
    while let Some((&octet, behind)) = rest.split_first() {
        rest = behind;
        match octet {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'"' => {
                begin_value(&mut out, last, depth, layout);
                let (string, behind) = behind.split_at(string_len(behind));
                out.push(b'"');
                out.extend_from_slice(string);
                rest = behind;
            }
            b'{' | b'[' => {
                begin_value(&mut out, last, depth, layout);
                out.push(octet);
                depth += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !matches!(last, b'{' | b'[') {
                    new_line(&mut out, depth, layout);
                }
                out.push(octet);
            }
            b',' => out.push(octet),
            b':' if layout == Layout::Pretty => out.extend_from_slice(b": "),
            b':' => out.push(octet),
            _ => {
                begin_value(&mut out, last, depth, layout);
                out.push(octet);
            }
        }
        last = octet;
    }
    Some(out)
}

/// The octets of a string behind its opening quote, the closing one included.
fn string_len(octets: &[u8]) -> usize {
    let mut escaped = false;
    for (at, octet) in octets.iter().enumerate() {
        match octet {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    octets.len()
}

fn begin_value(out: &mut Vec<u8>, last: u8, depth: usize, layout: Layout) {
    if matches!(last, b'{' | b'[' | b',') {
        new_line(out, depth, layout);
    }
}

fn new_line(out: &mut Vec<u8>, depth: usize, layout: Layout) {
    if layout == Layout::Pretty {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str, layout: Layout) -> Option<String> {
        lay_out(json.as_bytes(), layout).map(|octets| String::from_utf8(octets).unwrap())
    }

    #[test]
    fn layout_is_that_of_serde_json_for_what_it_can_hold() {
        for json in [
            "null",
            " [ ] ",
            "{}",
            "-1.5e3",
            r#""a \" { b \\""#,
            r#"{"a":[1,2,{"b":[]}],"c":{"d":"x, y: z"},"e":[[],[true]]}"#,
            "[\"\\\\\", \"\\\\\\\"\", false ,\t{ \"k\" : null}]",
        ] {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let number_free = !json.contains("e3");
            if number_free {
                assert_eq!(
                    text(json, Layout::Pretty).unwrap(),
                    serde_json::to_string_pretty(&value).unwrap()
                );
                assert_eq!(text(json, Layout::OneLine).unwrap(), value.to_string());
            }
            let again: serde_json::Value =
                serde_json::from_str(&text(json, Layout::Pretty).unwrap()).unwrap();
            assert_eq!(again, value);
        }
    }

    #[test]
    fn numbers_keys_and_their_order_stay_as_they_came() {
        let json = r#"{"z":1,"a":123456789012345678901234567890,"z":1.10}"#;
        assert_eq!(text(json, Layout::OneLine).as_deref(), Some(json));
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        for octets in [&b""[..], b"{", b"1 2", b"\xff", b"{'a':1}"] {
            assert_eq!(lay_out(octets, Layout::Pretty), None);
        }
    }

    #[test]
    fn durations_have_a_unit_that_fits() {
        assert_eq!(human(Duration::from_nanos(1500)), "1.5 µs");
        assert_eq!(human(Duration::from_micros(1500)), "1.50 ms");
        assert_eq!(human(Duration::from_millis(1500)), "1.50 s");
        assert!((micros(Duration::from_nanos(1_250_060)) - 1250.1).abs() < 1e-9);
    }
}
