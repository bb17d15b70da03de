//! What did the user type, and on which line?
//!
//! Reads the YAML of a run file into flat entries `section.key`, each with its line. Scalars stay text: the key decides what
//! the text means, so that `1e-6` is a number and `no` is a flag where one is expected, as PyYAML users are used to, and a
//! folder called `1e3` stays a name.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// A scalar as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    /// The text, unquoted.
    pub(crate) text: String,
    /// Whether it stood in quotes (then it is text and nothing else).
    pub(crate) quoted: bool,
}

/// A value as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// One scalar.
    One(Scalar),
    /// A list of scalars.
    Many(Vec<Scalar>),
}

impl Scalar {
    /// Whether it is YAML's null.
    pub(crate) fn is_null(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Value {
    /// The value as YAML would show it, for messages.
    pub(crate) fn shown(&self) -> String {
        let one = |scalar: &Scalar| if scalar.is_null() { "null".into() } else { format!("`{}`", scalar.text) };
        match self {
            Value::One(scalar) => one(scalar),
            Value::Many(list) => format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(", ")),
        }
    }

    /// Whether it is YAML's null.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Value::One(scalar) if scalar.is_null())
    }
}

/// One `section.key: value` of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `section.key`, or `key` at the top level.
    pub(crate) key: String,
    /// What stands there.
    pub(crate) value: Value,
    /// Line of the key, from 1.
    pub(crate) line: usize,
}

/// YAML that cannot be read as a run file.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct YamlError {
    /// Line, from 1.
    pub(crate) line: usize,
    /// What is wrong there.
    pub(crate) what: String,
}

/// Sections within sections, of which run files have one level. Each costs stack, and makes its keys longer.
const DEPTH_MAX: usize = 16;
/// Keys of a file. Each is compared with all before it.
const ENTRIES_MAX: usize = 1000;

/// All entries of a file, in order.
pub(crate) fn entries(text: &str) -> Result<Vec<Entry>, YamlError> {
    let mut events = Events::open(text)?;
    let mut entries: Vec<Entry> = Vec::new();
    match events.next()? {
        (Event::MappingStart(anchor, _), span) => {
            refuse_anchor(anchor, &span)?;
            mapping(&mut events, "", 0, &mut entries)?;
        }
        (Event::Scalar(text, ..), _) if text.trim().is_empty() => {}
        (Event::StreamEnd, _) => return Ok(entries),
        (_, span) => return Err(wrong(&span, "expected sections such as `data:` and `mask:`, got something else")),
    }
    match events.next()? {
        (Event::DocumentEnd, _) => {}
        (_, span) => return Err(wrong(&span, "expected the end of the file")),
    }
    if let (Event::DocumentStart(_), span) = events.next()? {
        return Err(wrong(&span, "a second document begins; a run file has one"));
    }
    Ok(entries)
}

/// The value after the `=` of `--set section.key=value`, read as YAML.
pub(crate) fn value(text: &str) -> Result<Value, YamlError> {
    // A path such as `runs/a: b` or `#1` is what the user typed, not a mapping or a comment.
    let plain = || Value::One(Scalar { text: text.to_owned(), quoted: false });
    if !text.trim_start().starts_with(['[', '\'', '"']) {
        return Ok(plain());
    }
    let mut events = Events::open(text)?;
    let first = events.next()?;
    node(&mut events, first, "the value")
}

/// The parser's events, less those that only frame a document.
struct Events<'t> {
    parser: Parser<'t, StrInput<'t>>,
}

impl<'t> Events<'t> {
    fn open(text: &'t str) -> Result<Events<'t>, YamlError> {
        let mut events = Events { parser: Parser::new_from_str(text) };
        loop {
            match events.parser.peek() {
                Some(Ok((Event::StreamStart | Event::DocumentStart(_), _))) => _ = events.next()?,
                Some(Err(_)) => _ = events.next()?,
                _ => return Ok(events),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(YamlError { line: error.marker().line(), what: error.info().to_owned() }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }
}

/// Reads the rest of a mapping, `depth` levels down, whose keys get `prefix` in front.
fn mapping(events: &mut Events<'_>, prefix: &str, depth: usize, entries: &mut Vec<Entry>) -> Result<(), YamlError> {
    loop {
        let (key, span) = match events.next()? {
            (Event::MappingEnd, _) => return Ok(()),
            (Event::Scalar(text, _, anchor, _), span) => {
                refuse_anchor(anchor, &span)?;
                (format!("{prefix}{text}"), span)
            }
            (_, span) => return Err(wrong(&span, "expected a key")),
        };
        let line = span.start.line();
        let again =
            |entry: &&Entry| entry.key.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if let Some(first) = entries.iter().find(again) {
            return Err(wrong(&span, &format!("{key} stands here a second time; the first is on line {}", first.line)));
        }
        match events.next()? {
            (Event::MappingStart(anchor, _), span) => {
                refuse_anchor(anchor, &span)?;
                if depth == DEPTH_MAX {
                    return Err(wrong(&span, &format!("more than {DEPTH_MAX} sections within each other")));
                }
                mapping(events, &format!("{key}."), depth + 1, entries)?;
            }
            (_, span) if entries.len() == ENTRIES_MAX => {
                return Err(wrong(&span, &format!("more than {ENTRIES_MAX} keys")));
            }
            event => entries.push(Entry { value: node(events, event, &key)?, key, line }),
        }
    }
}

/// A scalar or a list of scalars.
fn node(events: &mut Events<'_>, event: (Event<'_>, Span), key: &str) -> Result<Value, YamlError> {
    match event {
        (Event::Scalar(text, style, anchor, _), span) => {
            refuse_anchor(anchor, &span)?;
            Ok(Value::One(scalar(&text, style)))
        }
        (Event::SequenceStart(anchor, _), span) => {
            refuse_anchor(anchor, &span)?;
            let mut list = Vec::new();
            loop {
                match events.next()? {
                    (Event::SequenceEnd, _) => return Ok(Value::Many(list)),
                    (Event::Scalar(text, style, anchor, _), span) => {
                        refuse_anchor(anchor, &span)?;
                        list.push(scalar(&text, style));
                    }
                    (_, span) => return Err(wrong(&span, &format!("{key}: expected a plain value in the list"))),
                }
            }
        }
        (Event::Alias(_), span) => {
            Err(wrong(&span, &format!("{key}: aliases (`*name`) are not read; write the value out")))
        }
        (_, span) => Err(wrong(&span, &format!("{key}: expected a value"))),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Scalar {
    Scalar { text: text.to_owned(), quoted: style != ScalarStyle::Plain }
}

fn refuse_anchor(anchor: usize, span: &Span) -> Result<(), YamlError> {
    if anchor == 0 { Ok(()) } else { Err(wrong(span, "anchors (`&name`) are not read; write the value out")) }
}

fn wrong(span: &Span, what: &str) -> YamlError {
    YamlError { line: span.start.line(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Value {
        Value::One(Scalar { text: text.into(), quoted: false })
    }

    #[test]
    fn entries_carry_their_lines_through_comments_and_both_list_styles() {
        let text = "# a run\ndata:\n  batch_size: 8 # images\n  crop_scale:\n  - 0.3\n  - 1.0\n\nmask:\n  aspect_ratio: [0.75, 1.5]\n";
        let entries = entries(text).expect("it is YAML");
        let seen: Vec<_> = entries.iter().map(|entry| (entry.key.as_str(), entry.line)).collect();
        assert_eq!(seen, [("data.batch_size", 3), ("data.crop_scale", 4), ("mask.aspect_ratio", 9)]);
        assert_eq!(entries[0].value, plain("8"));
        assert_eq!(entries[1].value.shown(), "[`0.3`, `1.0`]");
    }

    #[test]
    fn an_empty_file_has_no_entries() {
        assert_eq!(entries("").expect("it is YAML"), []);
        assert_eq!(entries("# only a comment\n").expect("it is YAML"), []);
    }

    #[test]
    fn what_cannot_be_a_run_file_is_refused_with_its_line() {
        for (text, line, part) in [
            ("data:\n  batch_size: 8\n  batch_size: 9\n", 3, "a second time"),
            ("data:\n  a: 1\nmask:\n  b: 1\ndata:\n  c: 1\n", 5, "a second time"),
            ("a: &x 1\n", 1, "anchors"),
            ("data:\n  crop_scale: [[1, 2]]\n", 2, "plain value"),
            ("- 1\n- 2\n", 1, "sections"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("data:\n  a: [1, 2\nmask:\n  b: 3\n", 3, ""),
            ("data:\n\ta: 1\n", 2, ""),
        ] {
            let error = entries(text).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.what.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn sections_nested_too_deep_are_refused_and_not_followed() {
        let in_braces = |depth: usize| "{a: ".repeat(depth) + "1" + &"}".repeat(depth);
        let in_lines = |depth: usize| (0..depth).map(|level| " ".repeat(level) + "a:\n").collect::<String>();
        assert_eq!(entries(&in_braces(17)).expect("deep, but followed").len(), 1);
        assert_eq!(entries(&in_lines(17)).expect("deep, but followed").len(), 1);
        for text in [in_braces(18), in_lines(18), in_lines(1000)] {
            let error = entries(&text).expect_err("too deep");
            assert!(error.what.contains("16 sections within each other"), "{error}");
        }
        // Here the parser refuses first.
        assert!(entries(&in_braces(100_000)).is_err());
    }

    #[test]
    fn a_hundred_thousand_keys_are_refused_before_they_are_all_compared() {
        let text: String = (0..100_000).map(|number| format!("key{number}: 1\n")).collect();
        let error = entries(&text).expect_err("too many");
        assert_eq!(error.line, 1001);
        assert!(error.what.contains("more than 1000 keys"), "{error}");
    }

    #[test]
    fn a_set_value_is_text_a_list_or_a_quoted_text() {
        assert_eq!(value("0.1").expect("it is a value"), plain("0.1"));
        assert_eq!(value("a: b#c").expect("it is a value"), plain("a: b#c"));
        assert_eq!(value("[1, 2]").expect("it is a value").shown(), "[`1`, `2`]");
        assert_eq!(value("'null'").expect("it is a value"), Value::One(Scalar { text: "null".into(), quoted: true }));
    }
}
