//! How does the program end, and what does it say when it fails?
//!
//! Exit codes are part of the interface: scripts and schedulers act on them. A failure anywhere in the program either is a
//! [`Failure`], which names its own code, or has a library's typed error among its causes, whose code is decided in [`code`]
//! and nowhere else.

use std::fmt;
use std::process::ExitCode;

use ijepa_data::{DataError, MaskError};
use ijepa_eval::EvalError;
use ijepa_model::checkpoint::CheckpointError;

use crate::output;

/// What the process tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All that was asked for is done.
    Done = 0,
    /// Something failed that no other code names.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The data cannot be found or read.
    Data = 3,
    /// A checkpoint cannot be read, or does not fit the model.
    Checkpoint = 4,
    /// The device cannot be used, or another rank is lost.
    Device = 5,
    /// The loss is not finite.
    NotFinite = 6,
    /// A signal came, everything was saved: start again with `--resume`. (EX_TEMPFAIL of sysexits.h.)
    Stopped = 75,
}

impl Exit {
    /// What a code means; a code that is none of ours is a plain failure.
    pub(crate) fn of(code: u8) -> Exit {
        use Exit::{Checkpoint, Data, Device, Done, Failed, NotFinite, Stopped, Usage};
        let all = [Done, Failed, Usage, Data, Checkpoint, Device, NotFinite, Stopped];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error that knows its exit code and what to do next. The message says what, where, expected and got.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    remedy: Option<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure that ends the program with `exit`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), remedy: None, source: None }
    }

    /// The command line or the configuration is wrong (code 2).
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// What the user can do about it, one sentence.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Failure {
        self.remedy = Some(remedy.into());
        self
    }

    /// The error underneath.
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Failure {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// The exit code of an error: the outermost cause that has one decides.
pub(crate) fn code(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if cause.is::<MaskError>() {
            return Exit::Usage;
        }
        if let Some(error) = cause.downcast_ref::<DataError>() {
            return match error {
                DataError::Setting { .. } | DataError::Mask(_) => Exit::Usage,
                _ => Exit::Data,
            };
        }
        if let Some(error) = cause.downcast_ref::<EvalError>() {
            return match error {
                EvalError::Empty { .. }
                | EvalError::Labels { .. }
                | EvalError::OneClass { .. }
                | EvalError::NotFinite { .. }
                | EvalError::TooFewRows { .. } => Exit::Data,
                EvalError::Setting { .. } => Exit::Usage,
                _ => Exit::Failed,
            };
        }
        if cause.is::<CheckpointError>() {
            return Exit::Checkpoint;
        }
    }
    Exit::Failed
}

/// Prints an error with its causes and remedies to stderr and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    output::error(&describe(error));
    code(error)
}

/// The lines of an error: message, causes that say something new, remedies.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut said = text.clone();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some errors repeat their source in their own message.
        if !said.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause.replace('\n', "\n           "));
            said.push_str(&cause);
        }
    }
    for remedy in error.chain().filter_map(|cause| cause.downcast_ref::<Failure>()?.remedy.as_ref()) {
        text.push_str("\n  try: ");
        text.push_str(remedy);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_failure_keeps_its_code_under_any_context() {
        let error = anyhow::Error::from(Failure::new(Exit::Checkpoint, "no tensor `x`")).context("reading a.pth.tar");
        assert_eq!(code(&error), Exit::Checkpoint);
        let error = Err::<(), _>(error).context("resuming").expect_err("it is an error");
        assert_eq!(code(&error), Exit::Checkpoint);
    }

    #[test]
    fn an_error_without_a_code_is_a_plain_failure() {
        assert_eq!(code(&anyhow::anyhow!("disk on fire")), Exit::Failed);
    }

    #[test]
    fn faults_of_the_data_are_told_from_faults_of_the_settings() {
        let setting = |what| DataError::Setting { what, got: "9".into(), wanted: "0 to 2.5 is expected".into() };
        assert_eq!(code(&setting("data.color_jitter_strength").into()), Exit::Usage);
        let masks = MaskError { problem: "no room".into(), remedy: "a smaller min_keep".into() };
        assert_eq!(code(&DataError::Mask(masks).into()), Exit::Usage);
        assert_eq!(code(&DataError::LoaderPanicked.into()), Exit::Data);
        assert_eq!(code(&EvalError::OneClass { rows: 9, class: 0 }.into()), Exit::Data);
        assert_eq!(code(&EvalError::Singular { lambda: 0.0 }.into()), Exit::Failed);
    }

    #[test]
    fn the_text_has_message_causes_and_remedy_without_repetition() {
        let source = std::io::Error::other("disk on fire");
        let failure = Failure::usage("cannot write runs/a").because(source).remedy("give another --out");
        let text = describe(&anyhow::Error::from(failure).context("pretrain"));
        assert_eq!(
            text,
            "pretrain\n  because: cannot write runs/a\n  because: disk on fire\n  try: give another --out"
        );
        let repeated = anyhow::anyhow!("disk on fire").context("cannot write: disk on fire");
        assert_eq!(describe(&repeated), "cannot write: disk on fire");
    }
}
