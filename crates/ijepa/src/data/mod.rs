//! `ijepa data check|pack`: is this data sound, and how is it stored so that it can be read fast?

mod check;
mod facts;
mod pack;
mod work;

use std::collections::HashMap;

use anyhow::Result;
use ijepa_data::{DataError, Dataset, Split, Storage};

use crate::cli::DataCommand;
use crate::exit::Exit;
use crate::opening;

/// Runs the command.
pub(crate) fn run(command: &DataCommand) -> Result<Exit> {
    match command {
        DataCommand::Check(args) => check::run(args),
        DataCommand::Pack(args) => pack::run(args),
    }
}

/// A part of a data source.
struct Part {
    /// `train` or `val` where the source has both or only that, else `all`.
    name: &'static str,
    dataset: Dataset,
}

/// All parts of a data source: both splits where it has them, else the whole of it.
fn parts(spec: &str) -> Result<Vec<Part>> {
    let part = |name, dataset| Part { name, dataset };
    let open = |split| opening::open(spec, split, 0, Storage::default());
    match (open(Split::Train), open(Split::Val)) {
        (Ok(train), Ok(val)) if is_same(&train, &val) => Ok(vec![part("all", train)]),
        (Ok(train), Ok(val)) => Ok(vec![part("train", train), part("val", val)]),
        (Ok(train), Err(DataError::NoSplit { .. })) => Ok(vec![part("train", train)]),
        (Err(DataError::NoSplit { .. }), Ok(val)) => Ok(vec![part("val", val)]),
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

/// Whether a source without splits was opened twice. Scenes are drawn anew for each split, and are all sound.
fn is_same(train: &Dataset, val: &Dataset) -> bool {
    let last = train.len() - 1;
    train.len() == val.len() && train.name(0) == val.name(0) && train.name(last) == val.name(last)
}

/// Names of the classes of all parts, and for each part the number in that list of each of its classes.
fn classes(parts: &[Part]) -> (Vec<String>, Vec<Vec<u32>>) {
    let (mut names, mut known) = (Vec::new(), HashMap::new());
    let mut number = |name: &String| -> u32 {
        *known.entry(name.clone()).or_insert_with(|| {
            names.push(name.clone());
            names.len() as u32 - 1
        })
    };
    let mut of_part = |part: &Part| part.dataset.classes().unwrap_or_default().iter().map(&mut number).collect();
    let numbers = parts.iter().map(&mut of_part).collect();
    (names, numbers)
}
