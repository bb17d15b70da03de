//! Between a state and a file: which tensor of a checkpoint is which part of the blobs.

use crate::checkpoint::{Checkpoint, CheckpointError, Meta, Tensor, View, require, write_views};
use crate::jepa::{Jepa, State};
use crate::params::{Entry, Layout};
use crate::vit::Vit;
use ijepa_tensor::Buf;
use std::collections::BTreeMap;
use std::path::Path;

/// The encoder that looks at everything, whose features are evaluated.
pub const TARGET: &str = "target_encoder.";
/// The encoder that learns by gradients.
pub const CONTEXT: &str = "encoder.";

/// The name in checkpoints of an encoder's parameter in network `network` ([`TARGET`] or [`CONTEXT`]).
fn renamed(entry: &Entry, network: &str) -> String {
    format!("{network}{}", entry.name.strip_prefix(CONTEXT).unwrap_or(&entry.name))
}

impl Jepa {
    fn encoder_entries(&self) -> impl Iterator<Item = &Entry> {
        self.layout.entries.iter().filter(|entry| entry.slot.offset < self.encoder_len)
    }

    /// Everything that a checkpoint holds, as a state.
    ///
    /// Moments are zeros where the file has none; the step is the optimiser's, 0 without one.
    ///
    /// # Errors
    /// When tensors are missing, surplus or of another shape, in the networks or in the optimiser's state.
    pub fn restore(&self, checkpoint: &Checkpoint) -> Result<State, CheckpointError> {
        let mut expected: Vec<(String, Vec<usize>)> =
            self.layout.entries.iter().map(|entry| (entry.name.clone(), entry.shape.clone())).collect();
        expected.extend(self.encoder_entries().map(|entry| (renamed(entry, TARGET), entry.shape.clone())));
        require(checkpoint, &expected)?;

        let params = fill(self.layout.len, self.layout.entries.iter(), &checkpoint.tensors, |entry| entry.name.clone());
        let target =
            fill(self.encoder_len, self.encoder_entries(), &checkpoint.tensors, |entry| renamed(entry, TARGET));
        let (mut exp_avg, mut exp_avg_sq, mut step) = (Buf::zeros(self.layout.len), Buf::zeros(self.layout.len), 0);
        if let Some(moments) = &checkpoint.moments {
            let learnt: Vec<(String, Vec<usize>)> =
                self.layout.entries.iter().filter(|e| e.learnt()).map(|e| (e.name.clone(), e.shape.clone())).collect();
            for tensors in [&moments.exp_avg, &moments.exp_avg_sq] {
                let held = Checkpoint { tensors: tensors.clone(), moments: None, meta: checkpoint.meta.clone() };
                require(&held, &learnt)?;
            }
            let learnt = || self.layout.entries.iter().filter(|entry| entry.learnt());
            exp_avg = fill(self.layout.len, learnt(), &moments.exp_avg, |entry| entry.name.clone());
            exp_avg_sq = fill(self.layout.len, learnt(), &moments.exp_avg_sq, |entry| entry.name.clone());
            step = moments.step;
        }
        Ok(State { params, target, exp_avg, exp_avg_sq, step })
    }

    /// Writes a state as one checkpoint file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses; an older file of that name is then untouched.
    pub fn save(&self, path: &Path, state: &State, meta: &Meta) -> Result<(), CheckpointError> {
        let mut views: Vec<View> = Vec::new();
        for entry in &self.layout.entries {
            views.push(view(entry.name.clone(), entry, &state.params));
        }
        for entry in self.encoder_entries() {
            views.push(view(renamed(entry, TARGET), entry, &state.target));
        }
        for entry in self.layout.entries.iter().filter(|entry| entry.learnt()) {
            views.push(view(format!("optimizer.exp_avg.{}", entry.name), entry, &state.exp_avg));
            views.push(view(format!("optimizer.exp_avg_sq.{}", entry.name), entry, &state.exp_avg_sq));
        }
        write_views(path, meta, Some(state.step), &views)
    }
}

/// One encoder's blob out of a checkpoint; `network` is [`TARGET`] or [`CONTEXT`].
///
/// # Errors
/// When tensors of that network are missing, surplus or of another shape.
pub fn restore_encoder(layout: &Layout, checkpoint: &Checkpoint, network: &str) -> Result<Buf, CheckpointError> {
    let expected: Vec<(String, Vec<usize>)> =
        layout.entries.iter().map(|entry| (renamed(entry, network), entry.shape.clone())).collect();
    require(checkpoint, &expected)?;
    Ok(fill(layout.len, layout.entries.iter(), &checkpoint.tensors, |entry| renamed(entry, network)))
}

/// A lone encoder and its layout, for evaluation.
pub fn encoder(config: crate::VitConfig) -> (Layout, Vit) {
    let mut layout = Layout::default();
    let vit = Vit::declare(&mut layout, CONTEXT, config);
    (layout, vit)
}

fn view<'a>(name: String, entry: &'a Entry, blob: &'a Buf) -> View<'a> {
    View { name, shape: &entry.shape, values: &blob.as_slice()[entry.slot.range()] }
}

fn fill<'a>(
    len: usize,
    entries: impl Iterator<Item = &'a Entry>,
    tensors: &BTreeMap<String, Tensor>,
    name: impl Fn(&Entry) -> String,
) -> Buf {
    let mut blob = Buf::zeros(len);
    for entry in entries {
        let tensor = tensors.get(&name(entry)).expect("`require` found every tensor");
        blob.as_mut_slice()[entry.slot.range()].copy_from_slice(&tensor.values);
    }
    blob
}
