//! From images to feature vectors: an encoder out of a checkpoint, an untrained one, or the pixels themselves.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, EvalConfig, EvalLoader, EvalTransform, Filter, Fit, Normalisation};
use ijepa_eval::Features;
use ijepa_model::checkpoint::{Meta, Network, Reader};
use ijepa_model::params::Layout;
use ijepa_model::saved::{self, Hints};
use ijepa_model::vit::{Patches, Vit, all_patches};
use ijepa_tensor::{Buf, Precision, Tape, View};

use crate::cli::{EncoderArgs, NetworkArgs, Pool};
use crate::config::{self, Config};
use crate::device::{self, Place};
use crate::exit::{Exit, Failure};
use crate::hub;
use crate::log::progress::Progress;
use crate::output;
use crate::pictures::Pictures;
use crate::store::{Key, Rows, Store};

/// Side in pixels of the pictures that stand for raw pixels: larger ones are made smaller, which costs a linear probe nothing and saves
/// it from fitting noise.
pub(crate) const PIXELS_SIDE: usize = 64;

/// A lone encoder and how its images are prepared.
pub(crate) struct Encoder {
    pub(crate) vit: Vit,
    pub(crate) layout: Layout,
    pub(crate) params: Buf,
    pub(crate) normalisation: Normalisation,
    /// Which of the two encoders it is, where that is known.
    pub(crate) network: Option<Network>,
    /// What its checkpoint says beside the tensors.
    pub(crate) meta: Meta,
    /// What its linear layers multiply in.
    pub(crate) precision: Precision,
    /// Deviation of initial weights, for an untrained twin.
    init_std: f64,
    /// Whether somebody may ask for its features again.
    keeps: bool,
}

impl Encoder {
    /// One of the encoders of a checkpoint. Sizes are those of its tensors; the number of heads and the normalisation come from
    /// `args`, else from the configuration that the checkpoint carries, else from the reference's table and ImageNet.
    pub(crate) fn load(path: &Path, args: &NetworkArgs) -> Result<Encoder> {
        let path = &hub::locate(path)?;
        let mut file = Reader::open(path)?;
        file.notes().iter().for_each(|note| output::note(&format!("{}: {note}", path.display())));
        let (prefix, network) = choose_network(&file, args.network.map(Into::into), path)?;
        let config = configuration(&file, args.config.as_deref(), prefix, path)?;
        let native = sizes(&file, prefix, args.heads, &config, path)?;
        let sizes = ijepa_model::VitConfig { image: args.image_size.map_or(native.image, Into::into), ..native };
        sizes.validate().map_err(|problem| Failure::usage(format!("--image-size: {problem}")))?;
        let (layout, vit) = saved::encoder(sizes);
        let params = saved::restore_encoder((&layout, &vit), &mut file, prefix, native.grid())?;
        let mut meta = file.meta().clone();
        meta.config = config.any().map(Config::to_yaml);
        let config = config.any().cloned().unwrap_or_default();
        let (normalisation, init_std) = (config::normalisation(&config), config.meta.init_std);
        if let Some((mean, std)) = meta.mean_std.filter(|pair| *pair != (normalisation.mean, normalisation.std)) {
            output::note(&format!(
                "{}: preprocessor_config.json normalises by mean {mean:?} and deviation {std:?}; the encoder was trained with {:?} \
                 and {:?}, which are used here (--config FILE with data.mean and data.std changes them)",
                path.display(),
                normalisation.mean,
                normalisation.std
            ));
        }
        let precision = Precision::F32;
        Ok(Encoder { vit, layout, params, normalisation, network, meta, precision, init_std, keeps: true })
    }

    /// As [`Encoder::load`], of which such features are wanted, where it is to compute.
    pub(crate) fn load_for(path: &Path, args: &EncoderArgs, pool: Pool) -> Result<Encoder> {
        let mut encoder = Encoder::load(path, &args.network)?;
        let depth = encoder.vit.config.depth;
        if layers(pool) > depth {
            let problem = format!("last4 takes four blocks, the encoder of {} has {depth}", path.display());
            return Err(Failure::usage(problem).remedy("--pool last; with --preset, --pools last").into());
        }
        if let Some(device) = Place::of(&args.device)?.open()? {
            device::check_network("encoder", encoder.vit.config.width, encoder.vit.config.heads)?;
            encoder.params = Buf::parameters_on(&device, encoder.params.as_slice());
        }
        Ok(encoder)
    }

    /// The encoder of a configuration with given weights, a blob laid out as [`saved::encoder`] lays it out.
    pub(crate) fn new(config: &Config, params: Buf) -> Encoder {
        let (layout, vit) = saved::encoder(config::encoder_config(config));
        assert_eq!(layout.len, params.len(), "the weights of an encoder of these sizes");
        Encoder {
            vit,
            layout,
            // Weights on a GPU are those of a run that goes on.
            keeps: params.device().is_none(),
            params,
            normalisation: config::normalisation(config),
            network: Some(Network::Target),
            meta: Meta::default(),
            precision: Precision::F32,
            init_std: config.meta.init_std,
        }
    }

    /// Fresh weights of the same sizes.
    pub(crate) fn untrained(&self, seed: u64) -> Encoder {
        let fresh = self.layout.init(seed, self.init_std);
        Encoder {
            vit: self.vit.clone(),
            layout: self.layout.clone(),
            params: match self.params.device() {
                Some(device) => Buf::parameters_on(device, fresh.as_slice()),
                None => fresh,
            },
            network: None,
            meta: Meta::default(),
            ..*self
        }
    }

    /// How its images are cut and normalised.
    pub(crate) fn transform(&self, fit: Fit) -> EvalTransform {
        EvalTransform { crop: self.vit.config.image, filter: Filter::Bilinear, fit, normalisation: self.normalisation }
    }

    /// Length of a feature vector.
    pub(crate) fn width(&self, pool: Pool) -> usize {
        self.vit.config.width * layers(pool)
    }

    /// Features (b, width) of images (b, 3, h, w), and the tokens (b·n, d) of the last layer.
    pub(crate) fn forward(
        &self,
        memory: &ijepa_tensor::Pool,
        images: &[f32],
        batch: usize,
        pool: Pool,
    ) -> (Vec<f32>, ijepa_tensor::Var) {
        let n = self.vit.config.patches();
        let width = self.width(pool);
        let mut tape = Tape::inference(memory, self.params.view()).in_precision(self.precision);
        let index = all_patches(batch, n);
        let uploaded = memory.upload(images);
        let images = uploaded.as_ref().map_or(View::Cpu(images), Buf::view);
        let mut outputs =
            self.vit.forward_last(&mut tape, Patches { images, batch, index: &index, kept: n }, layers(pool));
        let mut features = vec![0.0; batch * width];
        for (layer, tokens) in outputs.iter().enumerate() {
            let pooled = tape.mean_tokens(tokens, n);
            let values = pooled.to_vec();
            for (features, pooled) in features.chunks_exact_mut(width).zip(values.chunks_exact(pooled.width())) {
                features[layer * pooled.len()..][..pooled.len()].copy_from_slice(pooled);
            }
        }
        (features, outputs.pop().expect("an encoder has at least one layer"))
    }

    /// Features of pictures that were cut before.
    pub(crate) fn extract_kept(&self, pictures: &Pictures, batch: usize, pool: Pool) -> Extracted {
        let memory = ijepa_tensor::Pool::on(self.params.device());
        let len = 3 * self.vit.config.image.0 * self.vit.config.image.1;
        let of = |images: Vec<f32>| self.forward(&memory, &images, images.len() / len, pool).0;
        let values: Vec<f32> = pictures.batches(batch).flat_map(of).collect();
        Extracted::of(Rows { values: values.into(), images: pictures.images.clone() }, self.width(pool))
    }

    /// Tokens (n·d) of the last layer of the images that can be read, with progress.
    pub(crate) fn extract_tokens(&self, wanted: &Wanted) -> Result<Extracted> {
        let memory = ijepa_tensor::Pool::on(self.params.device());
        let width = self.vit.config.width * self.vit.config.patches();
        extract(wanted, self.transform(wanted.fit), width, self.key("tokens"), |images, count| {
            self.forward(&memory, images, count, Pool::Last).1.to_vec()
        })
    }

    /// Features of the images that can be read, with progress.
    pub(crate) fn extract(&self, wanted: &Wanted, pool: Pool) -> Result<Extracted> {
        let memory = ijepa_tensor::Pool::on(self.params.device());
        let (width, key) = (self.width(pool), self.key(&format!("{pool:?}")));
        extract(wanted, self.transform(wanted.fit), width, key, |images, count| {
            self.forward(&memory, images, count, pool).0
        })
    }

    /// What its features of some kind depend on, besides images; nothing where they are not kept.
    fn key(&self, kind: &str) -> Option<Key> {
        let sizes = format!("{:?} {kind}", self.vit.config);
        let key = self.keeps.then(|| Key::new().with(sizes.as_bytes()))?;
        Some(match self.params.view() {
            View::Cpu(weights) => key.with(bytemuck::cast_slice(weights)),
            // Rounded on their way.
            View::Cuda(_) => key.with(b"bfloat16").with(bytemuck::cast_slice(&self.params.to_vec())),
        })
    }
}

/// Side of the patches of raw pixels, and of the pictures that are cut into them at most.
const PATCH: usize = 4;
const PATCHED_SIDE: usize = 32;
/// Length of a patch of raw pixels as a token.
pub(crate) const PATCH_WIDTH: usize = 3 * PATCH * PATCH;

/// Raw pixels as tokens: patches (n, 48) of pictures that are at most 32 wide and high. They are not kept.
pub(crate) fn pixel_patches(wanted: &Wanted, size: (usize, usize), normalisation: Normalisation) -> Result<Extracted> {
    let side = |side: usize| side.min(PATCHED_SIDE) / PATCH * PATCH;
    let (height, width) = wanted.dataset.normalised_size().unwrap_or((side(size.0), side(size.1)));
    if height % PATCH != 0 || width % PATCH != 0 || height * width == 0 {
        let problem = format!("raw pixels of {height}×{width} cannot be cut into patches of {PATCH}×{PATCH}");
        return Err(Failure::usage(problem).remedy("leave --baselines out").into());
    }
    let transform = EvalTransform { crop: (height, width), filter: Filter::Bilinear, fit: wanted.fit, normalisation };
    extract(wanted, transform, 3 * height * width, None, |images, _| patches(images, (height, width)))
}

/// (b, 3, h, w) pixels as (b, n, 3·4·4) patches, row by row.
fn patches(images: &[f32], (height, width): (usize, usize)) -> Vec<f32> {
    let mut out = Vec::with_capacity(images.len());
    for image in images.chunks_exact(3 * height * width) {
        for (top, left) in
            (0..height).step_by(PATCH).flat_map(|top| (0..width).step_by(PATCH).map(move |left| (top, left)))
        {
            for plane in image.chunks_exact(height * width) {
                (top..top + PATCH).for_each(|y| out.extend_from_slice(&plane[y * width + left..][..PATCH]));
            }
        }
    }
    out
}

/// Which images' features are wanted, how they are cut, and where features are kept.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) dataset: &'a Arc<Dataset>,
    /// Numbers of images, ascending; all without.
    pub(crate) images: Option<&'a [u32]>,
    pub(crate) fit: Fit,
    /// Images at a time.
    pub(crate) batch: usize,
    pub(crate) store: &'a Store,
    /// Whether progress is shown.
    pub(crate) narrated: bool,
}

/// Features without labels, and which image each row belongs to: those that cannot be read have none.
pub(crate) struct Extracted {
    pub(crate) features: Features,
    pub(crate) images: Vec<u32>, // (n)
}

impl Extracted {
    /// The features with the labels of their images, of which there is one for each in the data.
    pub(crate) fn labelled(self, labels: &[u32]) -> Features {
        let labels = self.images.iter().map(|&image| labels[image as usize]).collect();
        Features { labels, ..self.features }
    }

    fn of(rows: Rows, width: usize) -> Extracted {
        let features = Features { rows: rows.images.len(), width, values: rows.values, labels: Vec::new() };
        Extracted { features, images: rows.images }
    }

    /// The rows of some images.
    fn of_images(self, images: &[u32]) -> Extracted {
        let width = self.features.width;
        let (mut values, mut numbers) = (Vec::new(), Vec::new());
        for (row, image) in self.images.iter().enumerate().filter(|(_, image)| images.binary_search(image).is_ok()) {
            values.extend_from_slice(self.features.row(row));
            numbers.push(*image);
        }
        Extracted::of(Rows { values: values.into(), images: numbers }, width)
    }
}

/// Raw pixels, as an encoder of images of that size would get them, at most `side` wide and high. They are not kept: reading them
/// again takes as long as reading what was kept.
pub(crate) fn pixels(
    wanted: &Wanted,
    (height, width): (usize, usize),
    side: usize,
    normalisation: Normalisation,
) -> Result<Extracted> {
    let cut = (height.min(side), width.min(side));
    let (height, width) = wanted.dataset.normalised_size().unwrap_or(cut);
    let transform = EvalTransform { crop: (height, width), filter: Filter::Bilinear, fit: wanted.fit, normalisation };
    extract(wanted, transform, 3 * height * width, None, |images, _| images.to_vec())
}

/// Computes features of a batch of images, or finds them where they were kept under `key` together with the data and the transform.
fn extract(
    wanted: &Wanted,
    transform: EvalTransform,
    width: usize,
    key: Option<Key>,
    mut features_of: impl FnMut(&[f32], usize) -> Vec<f32>,
) -> Result<Extracted> {
    let Wanted { dataset, images, batch, store, narrated, .. } = *wanted;
    let all: Arc<[u32]> = images.map_or_else(|| (0..dataset.len() as u32).collect(), Arc::from);
    let none = Store::NONE;
    let (store, key) = match key {
        Some(key) => (store, data_key(key, dataset, transform)),
        None => (&none, Key::new()),
    };
    let part_key = images.map(|images| key.clone().with(bytemuck::cast_slice(images)));
    let found = |key: &Key| -> Result<Option<Extracted>> {
        let rows = store.find(key, width)?;
        rows.iter()
            .for_each(|rows| output::note(&format!("features of {} images were kept before", rows.images.len())));
        Ok(rows.map(|rows| Extracted::of(rows, width)))
    };
    if let Some(kept) = found(&key)? {
        return Ok(match images {
            None => kept,
            Some(images) => kept.of_images(images),
        });
    }
    let key = part_key.unwrap_or(key);
    if images.is_some()
        && let Some(kept) = found(&key)?
    {
        return Ok(kept);
    }

    let about = serde_json::json!({ "images": all.len(), "width": width, "first": dataset.name(all[0] as usize) });
    let mut part = store.begin(&key, width, &about)?;
    let held = part.as_ref().map_or(&[][..], |part| part.held());
    let mut seen = held.last().map_or(0, |last| all.partition_point(|image| image <= last));
    if seen > 0 {
        output::note(&format!("{seen} of {} features are there from an evaluation that was stopped", all.len()));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let config = EvalConfig { batch_size: batch, threads, queue: 4, transform };
    let mut loader = EvalLoader::start_for(Arc::clone(dataset), all[seen..].into(), config)?;
    let (mut values, mut numbered) = (Vec::new(), Vec::new()); // where nothing is kept
    let mut progress = narrated.then(|| Progress::start(all.len() as u64, seen as u64));
    while let Some(images) = loader.next()? {
        let features = features_of(&images.images, images.indices.len());
        let numbers: Vec<u32> = images.indices.iter().map(|&index| index as u32).collect();
        match &mut part {
            Some(part) => part.add(&features, &numbers)?,
            None => {
                values.extend(features);
                numbered.extend(numbers);
            }
        }
        seen += images.indices.len() + images.unreadable.len();
        if let Some(progress) = &mut progress {
            for image in images.unreadable {
                progress.warning(&format!("left out: {}", image.error));
            }
            progress.advance(seen as u64, "images");
        }
    }
    drop(progress);
    let rows = match part {
        Some(part) => part.finish()?,
        None => Rows { values: values.into(), images: numbered },
    };
    Ok(Extracted::of(rows, width))
}

fn data_key(key: Key, dataset: &Dataset, transform: EvalTransform) -> Key {
    let mut key = key.with(format!("{transform:?}").as_bytes());
    dataset.versions(|piece| key.add(piece));
    key
}

fn layers(pool: Pool) -> usize {
    match pool {
        Pool::Last => 1,
        Pool::Last4 => 4,
    }
}

/// The prefix of the encoder that was asked for (the target encoder, where nothing was and there is one), and which one it is.
pub(crate) fn choose_network(
    file: &Reader,
    wanted: Option<Network>,
    path: &Path,
) -> Result<(&'static str, Option<Network>)> {
    let has = |network: Network| file.shape(&format!("{}patch_embed.proj.weight", network.prefix())).is_some();
    let meta = file.meta();
    if meta.lone && meta.network.is_none() {
        if wanted.is_none() {
            output::note(&format!(
                "{} holds one encoder and does not say which; those that Hugging Face and timm publish are the context encoder",
                path.display()
            ));
        }
        return Ok((Network::Context.prefix(), wanted));
    }
    let other = [Network::Target, Network::Context].into_iter().find(|network| has(*network));
    match (wanted, other) {
        (Some(wanted), Some(other)) if !has(wanted) => {
            let problem = format!("it holds the {} encoder, not the {} encoder", other.name(), wanted.name());
            Err(unfit(path, problem, &format!("--network {}", other.name())))
        }
        (Some(wanted), _) => Ok((wanted.prefix(), Some(wanted))),
        (None, Some(found)) => {
            if found == Network::Context {
                output::note(&format!("{} holds no target encoder; the context encoder is taken", path.display()));
            }
            Ok((found.prefix(), Some(found)))
        }
        (None, None) => {
            let problem = "expected an encoder (a tensor patch_embed.proj.weight), got none".to_owned();
            Err(unfit(path, problem, "see what the file holds: ijepa inspect FILE"))
        }
    }
}

pub(crate) fn unfit(path: &Path, problem: String, remedy: &str) -> anyhow::Error {
    Failure::new(Exit::Checkpoint, format!("{}: {problem}", path.display())).remedy(remedy).into()
}

/// The configurations that speak of a checkpoint.
pub(crate) struct Configuration {
    /// `--config`
    typed: Option<Config>,
    /// The one in the file.
    carried: Option<Config>,
}

impl Configuration {
    /// The one that counts.
    pub(crate) fn any(&self) -> Option<&Config> {
        self.typed.as_ref().or(self.carried.as_ref())
    }
}

/// Reads the configuration that was typed, which must be of the encoder in the file, and the one that the file carries.
pub(crate) fn configuration(file: &Reader, typed: Option<&Path>, prefix: &str, path: &Path) -> Result<Configuration> {
    let carried = file.meta().config.as_deref();
    let carried =
        carried.map(|text| config::parse(text, &format!("the configuration in {}", path.display()))).transpose()?;
    let typed = match typed {
        None => None,
        Some(name) => {
            let config = config::load(Some(name), &[])?.0;
            let of = config::encoder_config(&config);
            let held = file.shape(&format!("{prefix}patch_embed.proj.weight"));
            if held.is_some_and(|held| *held != [of.width, of.channels, of.patch, of.patch]) {
                let problem = format!(
                    "--config {}: its encoder is {} wide with patches of {}, the one in {} has a patch embedding of {:?}",
                    name.display(),
                    of.width,
                    of.patch,
                    path.display(),
                    held.unwrap_or_default()
                );
                return Err(Failure::usage(problem).remedy("the run file that the encoder was trained with").into());
            }
            Some(config)
        }
    };
    Ok(Configuration { typed, carried: carried.map(|(config, _)| config) })
}

/// An encoder's sizes, from its tensors' shapes, `--heads` and its configurations.
pub(crate) fn sizes(
    file: &Reader,
    prefix: &str,
    heads: Option<usize>,
    config: &Configuration,
    path: &Path,
) -> Result<ijepa_model::VitConfig> {
    let width = file.shape(&format!("{prefix}patch_embed.proj.weight")).and_then(|shape| shape.first().copied());
    if let (Some(heads), Some(width)) = (heads, width)
        && width % heads != 0
    {
        return Err(
            Failure::usage(format!("--heads {heads}: expected a divisor of the encoder's width, {width}")).into()
        );
    }
    let hints = |config: Option<&Config>| {
        let sizes = config.map(config::encoder_config).filter(|sizes| Some(sizes.width) == width);
        Hints { heads: sizes.map(|sizes| sizes.heads), image: sizes.map(|sizes| sizes.image) }
    };
    let typed = hints(config.typed.as_ref());
    let typed = Hints { heads: heads.or(typed.heads), ..typed };
    saved::encoder_sizes(file, prefix, typed, hints(config.carried.as_ref()))
        .map_err(|problem| unfit(path, problem, "see what the file holds: ijepa inspect FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_hold_all_pixels_of_their_square() {
        // Every pixel says its channel, row and column.
        let pixel = |k: usize| (k / 96 * 10_000 + k % 96 / 12 * 100 + k % 12) as f32;
        let image: Vec<f32> = (0..3 * 8 * 12).map(pixel).collect();
        let patches = patches(&image, (8, 12));
        assert_eq!(patches.len(), image.len());
        let second = &patches[PATCH_WIDTH..2 * PATCH_WIDTH];
        assert_eq!(second[..5], [4.0, 5.0, 6.0, 7.0, 104.0]);
        assert_eq!(second[PATCH_WIDTH - 1], 20_307.0);
    }
}
