//! Which tensor of a file is which part of a classifier? `encoder.…` and `head.…`; of the moving average `target_encoder.…` and
//! `target_head.…`, so that every command that reads an encoder finds the one that is judged.

use std::path::Path;

use super::{fill, renamed, require, view};
use crate::checkpoint::{CheckpointError, EXP_AVG, EXP_AVG_SQ, Meta, Network, Reader, View, write_views};
use crate::classifier::{Classifier, State};
use crate::params::Entry;
use ijepa_tensor::Buf;

/// The name of a parameter's moving average.
fn averaged(entry: &Entry) -> String {
    match entry.name.starts_with(Network::Context.prefix()) {
        true => renamed(entry, Network::Target.prefix()),
        false => format!("target_{}", entry.name),
    }
}

/// Whether a file holds a classifier, and of how many classes.
pub fn classes(file: &Reader) -> Option<usize> {
    file.shape("head.weight").and_then(|shape| shape.first().copied())
}

impl Classifier {
    /// The weights of a classifier that are judged: the moving average where the file has one.
    ///
    /// # Errors
    /// When tensors are missing, surplus or of another shape.
    pub fn restore_weights(&self, file: &mut Reader) -> Result<Buf, CheckpointError> {
        let average = has_average(file);
        self.require(file, average)?;
        self.fill(file, if average { averaged } else { own })
    }

    /// Everything that [`Classifier::save`] wrote.
    ///
    /// # Errors
    /// When tensors are missing, surplus or of another shape, or the optimiser's state is.
    pub fn restore(&self, file: &mut Reader) -> Result<State, CheckpointError> {
        let average = has_average(file);
        self.require(file, average)?;
        let mut state = self.begin_with(self.fill(file, own)?, false);
        if average {
            state.average = self.fill(file, averaged)?;
        }
        let Some(step) = file.optimizer_step()? else { return Ok(state) };
        let named = |prefix: &str| -> Vec<(String, &Entry)> {
            let learnt = self.layout.entries.iter().filter(|entry| entry.learnt());
            learnt.map(|entry| (format!("{prefix}{}", entry.name), entry)).collect()
        };
        let (exp_avg, exp_avg_sq) = (named(EXP_AVG), named(EXP_AVG_SQ));
        require(file, exp_avg.iter().chain(&exp_avg_sq), None)?;
        let grid = self.encoder.config.grid();
        state.exp_avg = fill(file, &exp_avg, self.layout.len, None, grid)?;
        state.exp_avg_sq = fill(file, &exp_avg_sq, self.layout.len, None, grid)?;
        state.step = step;
        Ok(state)
    }

    /// Writes a state as one checkpoint file, whole or not at all; with moments where it is to be trained on.
    ///
    /// # Errors
    /// When the disk refuses; an older file of that name is then untouched.
    pub fn save(&self, path: &Path, state: &State, meta: &Meta) -> Result<(), CheckpointError> {
        let entries = &self.layout.entries;
        let mut views: Vec<View> = entries.iter().map(|entry| view(own(entry), entry, &state.params)).collect();
        if !state.average.is_empty() {
            views.extend(entries.iter().map(|entry| view(averaged(entry), entry, &state.average)));
        }
        for entry in entries.iter().filter(|entry| entry.learnt() && state.step > 0) {
            views.push(view(format!("{EXP_AVG}{}", entry.name), entry, &state.exp_avg));
            views.push(view(format!("{EXP_AVG_SQ}{}", entry.name), entry, &state.exp_avg_sq));
        }
        write_views(path, meta, (state.step > 0).then_some(state.step), &views)
    }

    fn require(&self, file: &Reader, average: bool) -> Result<(), CheckpointError> {
        let entries = || self.layout.entries.iter();
        let mut names: Vec<(String, &Entry)> = entries().map(|entry| (own(entry), entry)).collect();
        if average {
            names.extend(entries().map(|entry| (averaged(entry), entry)));
        }
        require(file, &names, None)
    }

    fn fill(&self, file: &mut Reader, name: impl Fn(&Entry) -> String) -> Result<Buf, CheckpointError> {
        let names: Vec<(String, &Entry)> = self.layout.entries.iter().map(|entry| (name(entry), entry)).collect();
        fill(file, &names, self.layout.len, None, self.encoder.config.grid())
    }
}

fn own(entry: &Entry) -> String {
    entry.name.clone()
}

fn has_average(file: &Reader) -> bool {
    file.shape("target_head.weight").is_some()
}
