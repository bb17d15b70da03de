//! From images to feature vectors: an encoder out of a checkpoint, an untrained one, or the pixels themselves.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, EvalConfig, EvalLoader, EvalTransform, Normalisation};
use ijepa_eval::Features;
use ijepa_model::VitConfig;
use ijepa_model::checkpoint::{self, Checkpoint};
use ijepa_model::params::Layout;
use ijepa_model::saved::{self, CONTEXT, TARGET};
use ijepa_model::variants::VARIANTS;
use ijepa_model::vit::{Patches, Vit, all_patches};
use ijepa_tensor::{Buf, Tape, View};

use crate::cli::{EncoderArgs, Network, Pool};
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::hub;
use crate::log::progress::Progress;

/// Side in pixels of the pictures that stand for raw pixels: larger ones are made smaller, which costs a linear probe nothing and saves
/// it from fitting noise.
const PIXELS_SIDE: usize = 64;

/// A lone encoder and how its images are prepared.
pub(crate) struct Encoder {
    pub(crate) vit: Vit,
    layout: Layout,
    params: Buf,
    pub(crate) normalisation: Normalisation,
    /// Deviation of initial weights, for an untrained twin.
    init_std: f64,
}

impl Encoder {
    /// One of the encoders of a checkpoint. Sizes are those of its tensors; the number of heads and the normalisation come from
    /// `args.config`, else from the configuration that the checkpoint carries, else from the reference's table and ImageNet.
    pub(crate) fn load(path: &Path, args: &EncoderArgs) -> Result<Encoder> {
        let path = &hub::locate(path)?;
        let network = match args.network {
            Network::Target => TARGET,
            Network::Context => CONTEXT,
        };
        let held = checkpoint::read_networks(path, &[network.trim_end_matches('.')])?;
        let config = match (args.config.as_deref(), &held.meta.config) {
            (Some(file), _) => Some(config::load(Some(file), &[])?.0),
            (None, Some(text)) => Some(config::parse(text, &format!("the configuration in {}", path.display()))?.0),
            (None, None) => None,
        };
        let sizes = sizes(path, &held, network, config.as_ref())?;
        if layers(args.pool) > sizes.depth {
            let problem =
                format!("--pool last4 takes four blocks, the encoder of {} has {}", path.display(), sizes.depth);
            return Err(Failure::usage(problem).remedy("--pool last").into());
        }
        let (layout, vit) = saved::encoder(sizes);
        let params = saved::restore_encoder(&layout, &held, network)?;
        let config = config.unwrap_or_default();
        let (normalisation, init_std) = (config::normalisation(&config), config.meta.init_std);
        Ok(Encoder { vit, layout, params, normalisation, init_std })
    }

    /// The encoder of a configuration with given weights, a blob laid out as [`saved::encoder`] lays it out.
    pub(crate) fn new(config: &Config, params: Buf) -> Encoder {
        let (layout, vit) = saved::encoder(config::encoder_config(config));
        assert_eq!(layout.len, params.len(), "the weights of an encoder of these sizes");
        Encoder { vit, layout, params, normalisation: config::normalisation(config), init_std: config.meta.init_std }
    }

    /// Fresh weights of the same sizes.
    pub(crate) fn untrained(&self, seed: u64) -> Encoder {
        Encoder {
            vit: self.vit.clone(),
            layout: self.layout.clone(),
            params: self.layout.init(seed, self.init_std),
            ..*self
        }
    }

    /// How its images are cut and normalised.
    pub(crate) fn transform(&self) -> EvalTransform {
        EvalTransform { crop_size: self.vit.config.image.0, normalisation: self.normalisation }
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
        let mut tape = Tape::inference(memory, self.params.view());
        let index = all_patches(batch, n);
        let mut outputs = self.vit.forward_last(
            &mut tape,
            Patches { images: View::Cpu(images), batch, index: &index, kept: n },
            layers(pool),
        );
        let mut features = vec![0.0; batch * width];
        for (layer, tokens) in outputs.iter().enumerate() {
            let pooled = tape.mean_tokens(tokens, n);
            for (features, pooled) in
                features.chunks_exact_mut(width).zip(pooled.as_slice().chunks_exact(pooled.width()))
            {
                features[layer * pooled.len()..][..pooled.len()].copy_from_slice(pooled);
            }
        }
        (features, outputs.pop().expect("an encoder has at least one layer"))
    }

    /// Features of every image that can be read, in the order of the data; labels where it has them.
    pub(crate) fn extract(&self, dataset: &Arc<Dataset>, pool: Pool, batch: usize) -> Result<Features> {
        let memory = ijepa_tensor::Pool::new();
        extract(dataset, self.transform(), self.width(pool), batch, |images, count| {
            self.forward(&memory, images, count, pool).0
        })
    }
}

/// Raw pixels of every image, as an encoder of images of `side` pixels would get them, at most [`PIXELS_SIDE`] wide and high.
pub(crate) fn pixels(
    dataset: &Arc<Dataset>,
    side: usize,
    normalisation: Normalisation,
    batch: usize,
) -> Result<Features> {
    let side = match &**dataset {
        // Ready-made tensors cannot be cut to size.
        Dataset::Tensors(tensors) => tensors.size().0,
        _ => side.min(PIXELS_SIDE),
    };
    extract(dataset, EvalTransform { crop_size: side, normalisation }, 3 * side * side, batch, |images, _| {
        images.to_vec()
    })
}

fn extract(
    dataset: &Arc<Dataset>,
    transform: EvalTransform,
    width: usize,
    batch: usize,
    mut features_of: impl FnMut(&[f32], usize) -> Vec<f32>,
) -> Result<Features> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut loader =
        EvalLoader::start(Arc::clone(dataset), EvalConfig { batch_size: batch, threads, queue: 4, transform })?;
    let mut progress = Progress::start(dataset.len() as u64, 0);
    let (mut values, mut indices) = (Vec::with_capacity(dataset.len() * width), Vec::new());
    let mut seen = 0;
    while let Some(images) = loader.next()? {
        values.extend(features_of(&images.images, images.indices.len()));
        seen += images.indices.len() + images.unreadable.len();
        indices.extend(images.indices);
        for image in images.unreadable {
            progress.warning(&format!("left out: {}", image.error));
        }
        progress.advance(seen as u64, "images");
    }
    progress.finish();
    let labels = dataset.labels().map_or_else(Vec::new, |labels| indices.iter().map(|&index| labels[index]).collect());
    Ok(Features { rows: indices.len(), width, values, labels })
}

fn layers(pool: Pool) -> usize {
    match pool {
        Pool::Last => 1,
        Pool::Last4 => 4,
    }
}

/// An encoder's sizes, from its tensors' shapes and its configuration.
fn sizes(path: &Path, held: &Checkpoint, network: &str, config: Option<&Config>) -> Result<VitConfig> {
    let unfit = |what: String| {
        Failure::new(Exit::Checkpoint, format!("{}: {what}", path.display()))
            .remedy("see what the file holds: ijepa inspect FILE; choose the network with --network")
    };
    let shape = |name: &str| held.tensors.get(&format!("{network}{name}")).map(|tensor| tensor.shape.as_slice());
    let missing = |name: &str| unfit(format!("expected a tensor {network}{name} of an encoder"));
    let (width, patch) = match shape("patch_embed.proj.weight") {
        Some(&[width, 3, patch, other]) if patch == other && patch > 0 => (width, patch),
        _ => return Err(missing("patch_embed.proj.weight (d, 3, p, p)").into()),
    };
    let patches = match shape("pos_embed") {
        Some(&[1, patches, columns]) if columns == width => patches,
        _ => return Err(missing("pos_embed (1, n, d)").into()),
    };
    let hidden = match shape("blocks.0.mlp.fc1.weight") {
        Some(&[hidden, columns]) if columns == width => hidden,
        _ => return Err(missing("blocks.0.mlp.fc1.weight (hidden, d)").into()),
    };
    let depth = (0..).take_while(|block| shape(&format!("blocks.{block}.norm1.weight")).is_some()).count();
    let configured = config.map(config::encoder_config).filter(|sizes| sizes.width == width);
    let heads =
        configured.map(|sizes| sizes.heads).or_else(|| VARIANTS.iter().find(|v| v.width == width).map(|v| v.heads));
    let Some(heads) = heads else {
        return Err(Failure::new(
            Exit::Checkpoint,
            format!(
                "{}: the number of attention heads is not in the file, and width {width} is none of the reference's",
                path.display()
            ),
        )
        .remedy("name the run file that the encoder was trained with: --config FILE")
        .into());
    };
    let side = (patches as f64).sqrt().round() as usize;
    let image = match configured {
        Some(sizes) if sizes.patches() == patches && sizes.patch == patch => sizes.image,
        _ if side * side == patches => (side * patch, side * patch),
        _ => return Err(unfit(format!("{patches} positions are not a square grid")).into()),
    };
    let sizes = VitConfig { image, patch, channels: 3, width, depth, heads, hidden };
    sizes.validate().map_err(unfit)?;
    Ok(sizes)
}
