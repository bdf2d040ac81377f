//! What the compiler must refuse: waiting for what was not asked for, and payloads or handlers that are none.
//!
//! Each file in `ui/` is a program that must not compile, with the compiler's words beside it.

#[test]
fn what_was_not_asked_for_cannot_be_awaited() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/every_mode.rs");
    cases.compile_fail("tests/ui/fail_*.rs");
}
