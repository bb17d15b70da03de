//! What may stand at a key, how is it read and how is it written?

use super::yaml::{Scalar, Value};

/// How often something happens, with its unit: `10 steps`, `0.5 epochs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Every {
    /// Every so many steps.
    Steps(u64),
    /// Every so many epochs.
    Epochs(f64),
}

impl Every {
    /// In steps, at least 1.
    pub(crate) fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Every::Steps(steps) => steps.max(1),
            Every::Epochs(epochs) => ((epochs * steps_per_epoch as f64).round() as u64).max(1),
        }
    }

    /// As a run file has it.
    fn shown(&self) -> String {
        match self {
            Every::Steps(steps) => format!("{steps} steps"),
            Every::Epochs(epochs) => format!("{epochs} epochs"),
        }
    }
}

/// An enum whose values have names in run files.
pub(crate) trait Choice {
    /// The name of the value.
    fn name(&self) -> &'static str;
    /// All names.
    fn names(&self) -> &'static [&'static str];
    /// Takes the value called `name`; false where there is none.
    fn choose(&mut self, name: &str) -> bool;
}

/// Declares an enum with the names of its values.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $text:literal),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub(crate) enum $name {
            $(#[doc(hidden)] #[value(name = $text)] $value),+
        }

        impl $crate::config::Choice for $name {
            fn name(&self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }

            fn names(&self) -> &'static [&'static str] {
                &[$($text),+]
            }

            fn choose(&mut self, name: &str) -> bool {
                match name {
                    $($text => *self = Self::$value,)+
                    _ => return false,
                }
                true
            }
        }
    };
}
pub(super) use choice;

/// The place of one key's value.
pub(super) enum Field<'c> {
    Flag(&'c mut bool),
    Count(&'c mut usize),
    MaybeCount(&'c mut Option<usize>),
    Seed(&'c mut u64),
    Real(&'c mut f64),
    Reals(&'c mut [f64]),
    Text(&'c mut String),
    MaybeText(&'c mut Option<String>),
    Every(&'c mut Every),
    MaybeEvery(&'c mut Option<Every>),
    Choice(&'c mut dyn Choice),
}

impl Field<'_> {
    /// Takes `value`. The error says what was expected.
    pub(super) fn read(&mut self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (Field::Reals(place), Value::Many(list)) if list.len() == place.len() => {
                let numbers: Option<Vec<f64>> = list.iter().map(real).collect();
                place.copy_from_slice(&numbers.ok_or_else(|| numbers_expected(place.len()))?);
                Ok(())
            }
            (Field::Reals(place), _) => Err(numbers_expected(place.len())),
            (field, Value::One(scalar)) => field.read_one(scalar),
            (field, Value::Many(_)) => Err(field.expected()),
        }
    }

    fn read_one(&mut self, scalar: &Scalar) -> Result<(), String> {
        let expected = self.expected();
        let count = || whole(scalar).and_then(|n| usize::try_from(n).ok());
        let text = || (!scalar.is_null()).then(|| scalar.text.clone());
        let read = match self {
            Field::Flag(place) => put(place, flag(scalar)),
            Field::Count(place) => put(place, count()),
            Field::MaybeCount(place) => put(place, if scalar.is_null() { Some(None) } else { count().map(Some) }),
            Field::Seed(place) => put(place, whole(scalar)),
            Field::Real(place) => put(place, real(scalar)),
            Field::Text(place) => put(place, Some(text().unwrap_or_default())),
            Field::MaybeText(place) => put(place, Some(text())),
            Field::Every(place) => put(place, every(scalar)),
            Field::MaybeEvery(place) => put(place, if scalar.is_null() { Some(None) } else { every(scalar).map(Some) }),
            Field::Choice(place) => place.choose(&scalar.text).then_some(()),
            Field::Reals(_) => None,
        };
        read.ok_or(expected)
    }

    /// What may stand here, in words.
    fn expected(&self) -> String {
        match self {
            Field::Flag(_) => "true or false".into(),
            Field::Count(_) | Field::Seed(_) => "a whole number".into(),
            Field::MaybeCount(_) => "a whole number or null".into(),
            Field::Real(_) => "a number".into(),
            Field::Reals(place) => numbers_expected(place.len()),
            Field::Text(_) => "text".into(),
            Field::MaybeText(_) => "text or null".into(),
            Field::Every(_) => "a number and its unit, such as `10 steps` or `0.5 epochs`".into(),
            Field::MaybeEvery(_) => "a number and its unit, such as `10 steps` or `0.5 epochs`, or null".into(),
            Field::Choice(place) => match place.names() {
                [one] => format!("`{one}`"),
                names => format!("one of {}", names.join(", ")),
            },
        }
    }

    /// The value as YAML.
    pub(super) fn shown(&self) -> String {
        match self {
            Field::Flag(place) => place.to_string(),
            Field::Count(place) => place.to_string(),
            Field::MaybeCount(place) => place.map_or("null".into(), |n| n.to_string()),
            Field::Seed(place) => place.to_string(),
            Field::Real(place) => shown_real(**place),
            Field::Reals(place) => format!("[{}]", place.iter().map(|x| shown_real(*x)).collect::<Vec<_>>().join(", ")),
            Field::Text(place) => shown_text(place),
            Field::MaybeText(place) => place.as_deref().map_or("null".into(), shown_text),
            Field::Every(every) => every.shown(),
            Field::MaybeEvery(every) => every.as_ref().map_or("null".into(), Every::shown),
            Field::Choice(place) => place.name().into(),
        }
    }
}

/// Puts a value in its place, if it could be read.
fn put<T>(place: &mut &mut T, value: Option<T>) -> Option<()> {
    **place = value?;
    Some(())
}

fn numbers_expected(count: usize) -> String {
    format!("a list of {count} numbers")
}

/// YAML 1.1 spells booleans in many ways; all of them can only mean a flag where a flag is expected.
fn flag(scalar: &Scalar) -> Option<bool> {
    match scalar.text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn real(scalar: &Scalar) -> Option<f64> {
    let text = scalar.text.replace('_', "");
    text.parse().ok().filter(|x: &f64| x.is_finite())
}

/// Also takes `300.0`, as Python would compute with it.
fn whole(scalar: &Scalar) -> Option<u64> {
    let text = scalar.text.replace('_', "");
    let exact = (0.0..=2f64.powi(53)).contains(&real(scalar)?) && real(scalar)?.fract() == 0.0;
    text.parse().ok().or_else(|| exact.then(|| real(scalar).map(|x| x as u64)).flatten())
}

fn every(scalar: &Scalar) -> Option<Every> {
    let (number, unit) = scalar.text.trim().split_once(char::is_whitespace)?;
    let number = Scalar { text: number.into(), quoted: false };
    match unit.trim() {
        "step" | "steps" => whole(&number).filter(|n| *n > 0).map(Every::Steps),
        "epoch" | "epochs" => real(&number).filter(|x| *x > 0.0).map(Every::Epochs),
        _ => None,
    }
}

/// The shortest text that reads back to the same f64. PyYAML takes a number for text unless it has a point and, in an
/// exponent, a sign.
fn shown_real(x: f64) -> String {
    let text = format!("{x:?}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let point = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{digits}{point}e{sign}{exponent}")
}

/// Plain where that cannot be misread, else in double quotes as JSON writes them (which YAML reads).
fn shown_text(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(harmless)
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
