//! Pictures that are looked at again and again while a run goes on: read and cut once, then kept as bytes.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, EvalConfig, EvalLoader, EvalTransform, Normalisation};

/// Bytes that are kept at most; a data set of more is read anew each time.
const MOST: usize = 1 << 30;

/// Cut pictures as bytes, a quarter of what they are as numbers.
pub(crate) struct Pictures {
    bytes: Vec<u8>, // (n, 3, h, w)
    /// (n) which image of the data set each one is: those that cannot be read are none.
    pub(crate) images: Vec<u32>,
    len: usize,
    normalisation: Normalisation,
}

impl Pictures {
    /// All images of a data set, cut; none where they are no bytes (data that come normalised) or too many to be kept.
    pub(crate) fn cut(dataset: &Arc<Dataset>, transform: EvalTransform, batch: usize) -> Result<Option<Pictures>> {
        let len = 3 * transform.crop.0 * transform.crop.1;
        if dataset.normalised_size().is_some() || dataset.len().saturating_mul(len) > MOST {
            return Ok(None);
        }
        let (normalisation, shares) = (transform.normalisation, Normalisation { mean: [0.0; 3], std: [1.0; 3] });
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let transform = EvalTransform { normalisation: shares, ..transform };
        let config = EvalConfig { batch_size: batch, threads, queue: 4, transform };
        let mut loader = EvalLoader::start(Arc::clone(dataset), config)?;
        let (mut bytes, mut images) = (Vec::new(), Vec::new());
        while let Some(read) = loader.next()? {
            bytes.extend(read.images.iter().map(|share| (share * 255.0).round() as u8));
            images.extend(read.indices.iter().map(|&image| image as u32));
        }
        Ok(Some(Pictures { bytes, images, len, normalisation }))
    }

    /// Normalised pixels (b, 3, h, w) of the pictures in order, at most `batch` at a time.
    pub(crate) fn batches(&self, batch: usize) -> impl Iterator<Item = Vec<f32>> {
        let Normalisation { mean, std } = self.normalisation;
        let tables: [[f32; 256]; 3] =
            std::array::from_fn(|c| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean[c]) / std[c]));
        let plane = self.len / 3;
        self.bytes.chunks(batch * self.len).map(move |bytes| {
            let planes = bytes.chunks_exact(plane).enumerate();
            planes
                .flat_map(|(at, plane)| plane.iter().map(move |&byte| (at % 3, byte)))
                .map(|(c, byte)| tables[c][usize::from(byte)])
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ijepa_data::{Filter, Fit, Split};

    #[test]
    fn kept_pictures_are_those_that_were_read_to_the_bit() {
        let dataset = Arc::new(Dataset::open("scenes:7", Split::Train, 3).expect("scenes are always there"));
        let normalisation = Normalisation { mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3] };
        let transform = EvalTransform { crop: (24, 32), filter: Filter::Bilinear, fit: Fit::Cut, normalisation };
        let kept = Pictures::cut(&dataset, transform, 4).expect("readable").expect("few enough");
        let config = EvalConfig { batch_size: 7, threads: 1, queue: 1, transform };
        let read = EvalLoader::start(dataset, config).expect("valid").next().expect("readable").expect("a batch");
        assert_eq!(kept.images, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(kept.batches(3).collect::<Vec<_>>().concat(), read.images);
    }
}
