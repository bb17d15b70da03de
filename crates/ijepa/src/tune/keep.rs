//! What does a training leave behind, so that it can be used and gone on with?

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ijepa_model::Classifier;
use ijepa_model::checkpoint::{Meta, Reader, Source};
use ijepa_model::classifier::State;

use crate::exit::Failure;
use crate::log::folder;

/// What a training is: settings, data, seed. One that goes on must be the same.
const IDENTITY: &str = "tune.identity";
/// What it has summed up so far.
const SUMS: &str = "tune.sums";
/// Which images had labels.
pub(crate) const LABELLED: &str = "tune.labelled";

/// Time between two checkpoints.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// A place for a training's checkpoint, or none.
pub(crate) struct Keeper {
    folder: Option<PathBuf>,
    meta: Meta,
    saved: Instant,
}

/// Sums over the steps of the last epoch, and the time of all steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    pub(crate) loss: f64,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    /// Images without labels that were seen, that the teacher was sure of, and that it was right about then.
    pub(crate) unlabelled: u64,
    pub(crate) sure: u64,
    pub(crate) right: u64,
}

/// A list of numbers, or of the bits of weights, as a few letters.
pub(crate) fn fingerprint(numbers: &[u32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    format!("{}-{:08x}", numbers.len(), crc32c::crc32c(&bytes))
}

impl Sums {
    /// Numbers one after the other; each is read again to the bit.
    fn to_text(self) -> String {
        let Sums { loss, steps, seconds, unlabelled, sure, right } = self;
        format!("{loss} {steps} {seconds} {unlabelled} {sure} {right}")
    }

    fn from_text(text: &str) -> Option<Sums> {
        let mut parts = text.split(' ');
        let (loss, steps) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let seconds = parts.next()?.parse().ok()?;
        let mut count = || parts.next()?.parse().ok();
        Some(Sums { loss, steps, seconds, unlabelled: count()?, sure: count()?, right: count()? })
    }
}

impl Keeper {
    /// A keeper in `folder`, of a training that `identity` describes.
    pub(crate) fn new(folder: Option<PathBuf>, mut meta: Meta, identity: String, labelled: &[u32]) -> Keeper {
        meta.source = Source::Ours;
        meta.other.insert(IDENTITY.to_owned(), identity);
        meta.other.insert(LABELLED.to_owned(), fingerprint(labelled));
        Keeper { folder, meta, saved: Instant::now() }
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The state that was saved, if there is one and the training is to go on.
    ///
    /// # Errors
    /// When there is one and the training is not to go on, or it is of another training.
    pub(crate) fn load(&self, model: &Classifier, resume: bool) -> Result<Option<(State, Sums)>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let path = folder::latest(folder);
        if !path.exists() {
            return Ok(None);
        }
        if !resume {
            let problem = format!("{} holds a run already", folder.display());
            return Err(Failure::usage(problem)
                .remedy("go on with it (--resume), or name another folder (--out)")
                .into());
        }
        let mut file = Reader::open(&path)?;
        let other = |key: &str| file.meta().other.get(key).cloned().unwrap_or_default();
        let (was, is) = (other(IDENTITY), self.meta.other.get(IDENTITY).cloned().unwrap_or_default());
        if was != is || file.meta().method != self.meta.method {
            let problem = format!("{}: it was begun otherwise\n  was {was}\n  is  {is}", path.display());
            return Err(Failure::usage(problem).remedy("the settings that it was begun with, or another --out").into());
        }
        let sums = Sums::from_text(&other(SUMS)).with_context(|| format!("{}: {SUMS}", path.display()))?;
        Ok(Some((model.restore(&mut file)?, sums)))
    }

    /// Whether the last checkpoint is old enough for another one.
    pub(crate) fn is_due(&self) -> bool {
        self.folder.is_some() && self.saved.elapsed() >= SAVE_EVERY
    }

    /// Writes the checkpoint, whole or not at all.
    pub(crate) fn save(&mut self, model: &Classifier, state: &State, sums: &Sums) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let checkpoints = folder::checkpoints(folder);
        std::fs::create_dir_all(&checkpoints).map_err(|error| {
            let problem = format!("cannot make the folder {}", checkpoints.display());
            Failure::usage(problem).because(error).remedy("name a folder that you may write to with --out")
        })?;
        let mut meta = Meta { step: Some(state.step), ..self.meta.clone() };
        meta.other.insert(SUMS.to_owned(), sums.to_text());
        match state.params.device() {
            None => model.save(&folder::latest(folder), state, &meta)?,
            Some(_) => model.save(&folder::latest(folder), &state.fetched(), &meta)?,
        }
        self.saved = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_again_to_the_bit() {
        let sums =
            Sums { loss: 1.790_898_025_035_858_2, steps: 9, seconds: 0.1 + 0.2, unlabelled: 5, sure: 4, right: 3 };
        assert_eq!(Sums::from_text(&sums.to_text()), Some(sums));
        assert_eq!(Sums::from_text("1.5 2"), None);
    }
}
