//! A Rust file as the rules see it: its code with comments and literals blanked, and its inline modules.
//!
//! **Invariant**: `code` has the length and the line breaks of `text`, so an offset means the same in both.

use std::ops::Range;

use super::Finding;

pub(crate) struct Source {
    /// Relative to the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with each comment, and each literal but for its opening quote, replaced by spaces.
    pub(crate) code: String,
    modules: Vec<InlineModule>,
}

struct InlineModule {
    body: Range<usize>,
    is_test: bool,
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { blanked(&text) } else { text.clone() };
        let modules = inline_modules(&code);
        Self { path: path.to_owned(), text, code, modules }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the code at `offset` only runs in tests.
    pub(crate) fn is_test(&self, offset: usize) -> bool {
        self.is_test_file()
            || self.modules.iter().any(|module| module.is_test && module.body.contains(&offset))
    }

    fn is_test_file(&self) -> bool {
        let (directory, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = name.trim_end_matches(".rs");
        directory.split('/').any(|part| part == "tests")
            || stem == "tests"
            || stem.ends_with("_tests")
            // The suite that other crates run over their own transports.
            || self.path.starts_with("lib/am/src/transport/conformance")
    }

    /// How many inline modules (`mod name { … }`) `offset` stands in.
    pub(crate) fn inline_depth(&self, offset: usize) -> usize {
        self.modules.iter().filter(|module| module.body.contains(&offset)).count()
    }

    /// The offsets at which `word` stands in the code as a word of its own.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }

    /// The code from `offset` on.
    pub(crate) fn code_from(&self, offset: usize) -> &str {
        self.code.get(offset..).unwrap_or_default()
    }

    /// The code before `offset`.
    pub(crate) fn code_before(&self, offset: usize) -> &str {
        self.code.get(..offset).unwrap_or_default()
    }

    pub(crate) fn finding(&self, offset: usize, text: impl Into<String>) -> Finding {
        let line = 1 + self.code_before(offset).matches('\n').count();
        self.finding_in_line(line, text)
    }

    pub(crate) fn finding_in_line(&self, line: usize, text: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, text: text.into() }
    }
}

pub(crate) fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word_char) && !after.is_some_and(is_word_char)
    })
}

/// The identifier at the beginning of `code`, empty if there is none.
pub(crate) fn leading_word(code: &str) -> &str {
    code.split(|c| !is_word_char(c)).next().unwrap_or_default()
}

fn inline_modules(code: &str) -> Vec<InlineModule> {
    let mut modules = Vec::new();
    for at in words(code, "mod") {
        let behind = code.get(at + 3..).unwrap_or_default();
        let name = leading_word(behind.trim_start());
        let Some(open) = behind.find(['{', ';']) else { continue };
        let between = behind.get(..open).unwrap_or_default();
        if name.is_empty()
            || between.trim() != name
            || !behind.get(open..).is_some_and(|rest| rest.starts_with('{'))
        {
            continue;
        }
        let start = at + 3 + open;
        let attributes =
            code.get(..at).unwrap_or_default().rsplit([';', '{', '}']).next().unwrap_or_default();
        let is_test = attributes.contains("cfg") && words(attributes, "test").next().is_some();
        modules.push(InlineModule { body: start..block_end(code, start), is_test });
    }
    modules
}

/// Where the block that opens at `start` ends.
fn block_end(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, c) in code.get(start..).unwrap_or_default().char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return start + offset + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Replaces comments and literals (but for their opening quotes, so that they stay values) by spaces, byte for
/// byte; line breaks stay.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = code.chars().next_back().is_some_and(is_word_char);
        let (kept, hidden) = split_token(rest, first, in_word);
        let (token, behind) = rest.split_at_checked(kept + hidden).unwrap_or((rest, ""));
        let (shown, blank) = token.split_at_checked(kept).unwrap_or((token, ""));
        code.push_str(shown);
        code.extend(blank.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        rest = behind;
    }
    code
}

/// How many bytes of `rest` to keep, and how many behind them to hide.
fn split_token(rest: &str, first: char, in_word: bool) -> (usize, usize) {
    if rest.starts_with("//") {
        return (0, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (0, block_comment_len(rest));
    }
    if first == '"' {
        return (1, quoted_len(rest, '"') - 1);
    }
    if first == '\'' {
        return (1, char_literal_len(rest).map_or(0, |len| len - 1));
    }
    if !in_word && let Some((kept, hidden)) = raw_string(rest) {
        return (kept, hidden);
    }
    (first.len_utf8(), 0)
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a literal with its quotes.
fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (offset, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return offset + quote.len_utf8();
        }
    }
    rest.len()
}

/// The length of a character literal; `None` for a lifetime.
fn char_literal_len(rest: &str) -> Option<usize> {
    let mut behind = rest.char_indices().skip(1);
    let (_, first) = behind.next()?;
    if first == '\\' {
        return Some(quoted_len(rest, '\''));
    }
    behind.next().filter(|&(_, c)| c == '\'').map(|(offset, _)| offset + 1)
}

/// The lengths of a raw string's prefix (`r##"`) and of all behind it.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|behind| behind.trim_start_matches('#').starts_with('"'))
    })?;
    let behind = rest.get(prefix.len()..)?;
    let hashes = behind.find('"')?;
    let kept = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    let inside = rest.get(kept..)?;
    Some((kept, inside.find(&end).map_or(inside.len(), |at| at + end.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ \n d */ e", "a              \n      e"),
            ("f(\"x\\\"y\") g", "f(\"     ) g"),
            ("f('\\'', 'x', 'a)", "f('   , '  , 'a)"),
            ("r#\"a\"b\"# c", "r#\"      c"),
            ("br\"x\" r#mod for\"y\"", "br\"   r#mod for\"  "),
            ("\u{e9} // \u{e9}", "\u{e9}      "),
        ] {
            let blanked = blanked(text);
            assert_eq!((blanked.as_str(), blanked.len()), (code, text.len()), "{text}");
        }
    }

    #[test]
    fn test_modules_are_told_from_others() {
        let text = "mod a { fn f() {} }\n#[cfg(test)]\nmod tests { fn g() { { } } }\nfn h() {}";
        let source = Source::new("lib/am/src/x.rs", text.to_owned());
        let at = |word: &str| text.find(word).unwrap();
        assert!(!source.is_test(at("f()")) && source.is_test(at("g()")) && !source.is_test(at("h()")));
        assert_eq!((source.inline_depth(at("f()")), source.inline_depth(at("h()"))), (1, 0));
    }

    #[test]
    fn a_word_is_not_a_part_of_a_word() {
        let source = Source::new("x.rs", "operand rand rand_core \"rand\" // rand".to_owned());
        assert_eq!(source.words("rand").collect::<Vec<_>>(), [8]);
    }
}
