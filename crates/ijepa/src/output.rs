//! Where does text go? Results to stdout, narration to stderr, and nobody else prints.

use std::io::{self, Write};
use std::sync::atomic::{AtomicI8, Ordering};

/// -1 quiet, 0 usual, 1 and more talkative.
static VERBOSITY: AtomicI8 = AtomicI8::new(0);

/// Sets how much is narrated: `-v` adds one, `-q` takes one.
pub(crate) fn set_verbosity(level: i8) {
    VERBOSITY.store(level, Ordering::Relaxed);
}

/// Whether narration of `level` (0 usual, 1 details) is wanted.
pub(crate) fn wants(level: i8) -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= level
}

/// One line of narration on stderr, unless `-q`.
pub(crate) fn note(text: &str) {
    if wants(0) {
        to_stderr(text);
    }
}

/// Something that the user should know even with `-q`.
pub(crate) fn warning(text: &str) {
    to_stderr(&format!("warning: {text}"));
}

/// The error that ends the program.
pub(crate) fn error(text: &str) {
    to_stderr(&format!("error: {text}"));
}

/// Results: `text` and a newline on stdout. A reader that went away (`ijepa ... | head`) has what it wanted.
pub(crate) fn result(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(format!("{text}\n").as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Results as JSON: one object on one line of stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(result(&serde_json::to_string(value)?)?)
}

/// Nothing can be done about a stderr that does not take text.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
