//! Between a model and a file: which tensor of a checkpoint is which part of the blobs, and how large is the model that it holds?

mod classifier;

use crate::checkpoint::{CheckpointError, EXP_AVG, EXP_AVG_SQ, Meta, Network, Reader, Tensor, View, write_views};
use crate::jepa::{Jepa, State};
use crate::params::{Entry, Layout};
use crate::positions;
use crate::variants::{PredictorConfig, VARIANTS, VitConfig};
use crate::vit::Vit;
use ijepa_tensor::Buf;

pub use classifier::classes;

/// The name in checkpoints of an encoder's parameter, as an encoder with that prefix has it.
fn renamed(entry: &Entry, prefix: &str) -> String {
    format!("{prefix}{}", bare(entry))
}

/// The name of an encoder's parameter without its network.
pub fn bare(entry: &Entry) -> &str {
    entry.name.strip_prefix(Network::Context.prefix()).unwrap_or(&entry.name)
}

impl Jepa {
    /// The parameters of the encoder.
    pub fn encoder_entries(&self) -> impl Iterator<Item = &Entry> {
        self.layout.entries.iter().filter(|entry| entry.slot.offset < self.encoder_len)
    }

    /// Everything that a checkpoint holds, as a state. Moments are zeros where the file has none; the step is the optimiser's, 0 without
    /// one.
    ///
    /// # Errors
    /// When tensors are missing, surplus or of another shape, in the networks or in the optimiser's state.
    pub fn restore(&self, file: &mut Reader) -> Result<State, CheckpointError> {
        let mut state = self.restore_weights(file, None)?;
        let Some(step) = file.optimizer_step()? else { return Ok(state) };
        let named = |prefix: &str| -> Vec<(String, &Entry)> {
            let learnt = self.layout.entries.iter().filter(|entry| entry.learnt());
            learnt.map(|entry| (format!("{prefix}{}", entry.name), entry)).collect()
        };
        let (exp_avg, exp_avg_sq) = (named(EXP_AVG), named(EXP_AVG_SQ));
        require(file, exp_avg.iter().chain(&exp_avg_sq), None)?;
        let (len, grid) = (self.layout.len, self.encoder.config.grid());
        state.exp_avg = fill(file, &exp_avg, len, None, grid)?;
        state.exp_avg_sq = fill(file, &exp_avg_sq, len, None, grid)?;
        state.step = step;
        Ok(state)
    }

    /// The three networks of a checkpoint as the state of step 0. Tables of positions are interpolated from the grid `from`, where one is
    /// given.
    ///
    /// # Errors
    /// When tensors are missing, surplus or of another shape.
    pub fn restore_weights(&self, file: &mut Reader, from: Option<(usize, usize)>) -> Result<State, CheckpointError> {
        let networks: Vec<(String, &Entry)> =
            self.layout.entries.iter().map(|entry| (entry.name.clone(), entry)).collect();
        let targets: Vec<(String, &Entry)> =
            self.encoder_entries().map(|entry| (renamed(entry, Network::Target.prefix()), entry)).collect();
        require(file, networks.iter().chain(&targets), from)?;
        let grid = self.encoder.config.grid();
        let zeros = || Buf::zeros(self.layout.len);
        Ok(State {
            params: fill(file, &networks, self.layout.len, from, grid)?,
            target: fill(file, &targets, self.encoder_len, from, grid)?,
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            step: 0,
        })
    }

    /// Writes a state as one checkpoint file, whole or not at all; without moments before the first step.
    ///
    /// # Errors
    /// When the disk refuses; an older file of that name is then untouched.
    pub fn save(&self, path: &std::path::Path, state: &State, meta: &Meta) -> Result<(), CheckpointError> {
        let mut views: Vec<View> = Vec::new();
        for entry in &self.layout.entries {
            views.push(view(entry.name.clone(), entry, &state.params));
        }
        for entry in self.encoder_entries() {
            views.push(view(renamed(entry, Network::Target.prefix()), entry, &state.target));
        }
        for entry in self.layout.entries.iter().filter(|entry| entry.learnt() && state.step > 0) {
            views.push(view(format!("{EXP_AVG}{}", entry.name), entry, &state.exp_avg));
            views.push(view(format!("{EXP_AVG_SQ}{}", entry.name), entry, &state.exp_avg_sq));
        }
        write_views(path, meta, (state.step > 0).then_some(state.step), &views)
    }
}

/// One encoder's blob out of a checkpoint, for the layout of [`encoder`]; positions are interpolated from the grid `from` where that is
/// not the encoder's own.
///
/// # Errors
/// When tensors of that network are missing, surplus or of another shape.
pub fn restore_encoder(
    (layout, vit): (&Layout, &Vit),
    file: &mut Reader,
    prefix: &str,
    from: (usize, usize),
) -> Result<Buf, CheckpointError> {
    let names: Vec<(String, &Entry)> = layout.entries.iter().map(|entry| (renamed(entry, prefix), entry)).collect();
    require(file, &names, Some(from))?;
    fill(file, &names, layout.len, Some(from), vit.config.grid())
}

/// A lone encoder and its layout, for evaluation.
pub fn encoder(config: VitConfig) -> (Layout, Vit) {
    let mut layout = Layout::default();
    let vit = Vit::declare(&mut layout, Network::Context.prefix(), config);
    (layout, vit)
}

/// A parameter as a tensor to be written.
pub fn view<'a>(name: String, entry: &'a Entry, blob: &'a Buf) -> View<'a> {
    View { name, shape: &entry.shape, values: &blob.as_slice()[entry.slot.range()] }
}

/// Whether a parameter is a table of positions: (1, n, d), without gradients.
fn is_positions(entry: &Entry) -> bool {
    !entry.learnt()
}

/// The shape that a file has a parameter in, when its positions are for the grid `from`.
fn held_shape(entry: &Entry, from: Option<(usize, usize)>) -> Vec<usize> {
    let mut shape = entry.shape.clone();
    if let (Some((rows, columns)), true) = (from, is_positions(entry)) {
        shape[1] = rows * columns;
    }
    shape
}

/// Holds a file against parameters and the names that it should have them under.
fn require<'a>(
    file: &Reader,
    names: impl IntoIterator<Item = &'a (String, &'a Entry)>,
    from: Option<(usize, usize)>,
) -> Result<(), CheckpointError> {
    let expected = names.into_iter().map(|(name, entry)| (name.clone(), held_shape(entry, from)));
    file.require(&expected.collect::<Vec<_>>())
}

fn fill(
    file: &mut Reader,
    names: &[(String, &Entry)],
    len: usize,
    from: Option<(usize, usize)>,
    grid: (usize, usize),
) -> Result<Buf, CheckpointError> {
    let mut blob = Buf::zeros(len);
    for (name, entry) in names {
        let place = &mut blob.as_mut_slice()[entry.slot.range()];
        match from {
            Some(from) if from != grid && is_positions(entry) => {
                let Tensor { values, .. } = file.read(name)?;
                place.copy_from_slice(&positions::interpolate(&values, from, grid));
            }
            _ => file.read_into(name, place)?,
        }
    }
    Ok(blob)
}

/// What shapes do not tell of an encoder.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// Attention heads.
    pub heads: Option<usize>,
    /// Height and width of an image in pixels.
    pub image: Option<(usize, usize)>,
}

/// An encoder's sizes from its tensors' shapes. Heads and image are what was `typed`, else what the file says of this encoder, else
/// what a configuration that it `carries` says, else the reference's heads for that width and a square image.
///
/// # Errors
/// A sentence that says what does not fit, and what to do.
pub fn encoder_sizes(file: &Reader, prefix: &str, typed: Hints, carries: Hints) -> Result<VitConfig, String> {
    let shape = |name: &str| file.shape(&format!("{prefix}{name}"));
    let wrong = |name: &str, expected: &str| match shape(name) {
        Some(held) => format!("{prefix}{name}: expected the shape {expected}, got {held:?}"),
        None => format!("expected a tensor {prefix}{name} {expected}, got none of that name"),
    };
    let (width, patch) = match shape("patch_embed.proj.weight") {
        Some(&[width, 3, patch, other]) if patch == other && patch > 0 && width > 0 => (width, patch),
        _ => return Err(wrong("patch_embed.proj.weight", "(d, 3, p, p)")),
    };
    let patches = match shape("pos_embed") {
        Some(&[1, patches, columns]) if columns == width && patches > 0 => patches,
        _ => return Err(wrong("pos_embed", "(1, n, d), without a class token")),
    };
    let hidden = match shape("blocks.0.mlp.fc1.weight") {
        Some(&[hidden, columns]) if columns == width => hidden,
        _ => return Err(wrong("blocks.0.mlp.fc1.weight", "(hidden, d)")),
    };
    let depth = (0..).take_while(|block| shape(&format!("blocks.{block}.norm1.weight")).is_some()).count();
    let known = || VARIANTS.iter().find(|variant| variant.width == width).map(|variant| variant.heads);
    let Some(heads) = typed.heads.or(file.meta().heads).or(carries.heads).or_else(known) else {
        return Err(format!(
            "the number of attention heads is not in the file, and width {width} is none of the reference's: say it with --heads N, \
             or name the run file that the encoder was trained with (--config FILE)"
        ));
    };
    let side = (patches as f64).sqrt().round() as usize;
    let fits = |&(height, width): &(usize, usize)| {
        // What the file says may be any numbers.
        let fitting = (height / patch).checked_mul(width / patch) == Some(patches);
        height % patch == 0 && width % patch == 0 && fitting
    };
    if let Some((height, width)) = file.meta().image.filter(|image| !fits(image)) {
        return Err(format!(
            "the file says that images are {height}×{width} pixels, which is not its {patches} patches of {patch}×{patch}"
        ));
    }
    let square = (side * side == patches).then_some((side * patch, side * patch));
    let image = typed.image.filter(fits).or(file.meta().image).or(carries.image.filter(fits)).or(square);
    let Some(image) = image else {
        return Err(format!(
            "{patches} positions are not a square grid, and neither the file nor a configuration says the size of an image: \
             name the run file that the encoder was trained with (--config FILE)"
        ));
    };
    let sizes = VitConfig { image, patch, channels: 3, width, depth, heads, hidden };
    sizes.validate().map(|()| sizes)
}

/// The predictor's sizes from its tensors' shapes; none where the file has no predictor.
pub fn predictor_sizes(file: &Reader) -> Option<PredictorConfig> {
    let &[width, _] = file.shape("predictor.predictor_embed.weight")? else { return None };
    let block = |number: &usize| file.shape(&format!("predictor.predictor_blocks.{number}.norm1.weight")).is_some();
    Some(PredictorConfig { width, depth: (0..).take_while(block).count() })
}
