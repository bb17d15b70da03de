//! Loaders: the same batches from any number of threads and from any start, in order, past bad images, within limits.

use std::path::Path;
use std::sync::Arc;

use ijepa_data::{
    Batch, DataError, Dataset, EvalConfig, EvalLoader, EvalTransform, Filter, Fit, LoaderConfig, MaskConfig, Masks,
    Normalisation, Sampler, Split, TrainLoader, TrainTransform, TruncateOver,
};

pub(crate) fn config(threads: usize, start_step: u64, stop_step: u64) -> LoaderConfig {
    LoaderConfig {
        seed: 5,
        batch_size: 4,
        rank: 0,
        world: 1,
        accumulate: 1,
        truncate_over: TruncateOver::Rank,
        drop_last: true,
        shuffle_window: 0,
        threads,
        queue: 3,
        start_step,
        stop_step,
        transform: TrainTransform {
            crop_size: 16,
            crop_scale: (0.3, 1.0),
            horizontal_flip: true,
            color_distortion: true,
            color_jitter_strength: 0.5,
            gaussian_blur: true,
            scaled_decoding: false,
            normalisation: Normalisation::default(),
        },
        masks: MaskConfig {
            grid: (8, 8),
            sampler: Sampler::Fixed,
            pred_mask_scale: (0.15, 0.2),
            enc_mask_scale: (0.85, 1.0),
            aspect_ratio: (0.75, 1.5),
            num_pred_masks: 4,
            num_enc_masks: 1,
            min_keep: 4,
            allow_overlap: false,
        },
        skip_limit: 10,
    }
}

fn scenes(count: usize) -> Arc<Dataset> {
    Arc::new(Dataset::open(&format!("scenes:{count}"), Split::Train, 0).expect("scenes"))
}

fn all(dataset: &Arc<Dataset>, config: LoaderConfig) -> Result<Vec<Batch>, DataError> {
    let mut loader = TrainLoader::start(Arc::clone(dataset), config)?;
    let mut batches = Vec::new();
    while let Some(batch) = loader.next()? {
        batches.push(batch);
    }
    Ok(batches)
}

#[test]
fn batches_do_not_depend_on_the_number_of_threads_or_on_the_queue() {
    let data = scenes(19);
    let one = all(&data, config(1, 0, 11)).expect("loads");
    assert_eq!(one.iter().map(|batch| batch.step).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
    assert_eq!(one, all(&data, config(2, 0, 11)).expect("loads"));
    assert_eq!(one, all(&data, LoaderConfig { queue: 1, ..config(7, 0, 11) }).expect("loads"));
    assert_eq!(one, all(&data, LoaderConfig { queue: 0, ..config(0, 0, 11) }).expect("loads"));
}

#[test]
fn a_loader_started_in_mid_epoch_goes_on_with_the_same_batches() {
    let data = scenes(19); // 4 batches an epoch: step 6 is the third of the second epoch
    let whole = all(&data, config(2, 0, 11)).expect("loads");
    assert_eq!(whole[6..], all(&data, config(3, 6, 11)).expect("loads"));
}

#[test]
fn an_epoch_takes_no_image_twice_and_the_next_one_takes_them_in_another_order() {
    let data = scenes(19);
    let batches = all(&data, config(2, 0, 8)).expect("loads");
    let epoch = |range: std::ops::Range<usize>| -> Vec<usize> {
        batches[range].iter().flat_map(|batch| batch.indices.iter().copied()).collect()
    };
    let (first, second) = (epoch(0..4), epoch(4..8));
    assert_ne!(first, second);
    for mut order in [first, second] {
        order.sort_unstable();
        order.dedup();
        assert_eq!(order.len(), 16);
    }
}

#[test]
fn the_same_image_is_cut_differently_in_the_next_epoch() {
    let data = scenes(4);
    let batches = all(&data, config(1, 0, 2)).expect("loads");
    let image = |batch: &Batch| {
        let row = batch.indices.iter().position(|&index| index == 2).expect("every image is in every epoch");
        batch.images[row * 768..(row + 1) * 768].to_vec()
    };
    assert_ne!(image(&batches[0]), image(&batches[1]));
}

/// Images, samples and masks of all rows of a step, from the batches of its parts.
fn joined(parts: &[Batch]) -> (Vec<usize>, Vec<f32>, Vec<Vec<u32>>) {
    let of = |masks: &Masks, row: usize| -> Vec<Vec<u32>> {
        let sets = masks.context.iter().chain(&masks.targets);
        sets.map(|set| set.indices[row * set.per_image..][..set.per_image].to_vec()).collect()
    };
    let rows = parts.iter().flat_map(|part| (0..part.masks.batch).map(|row| of(&part.masks, row).concat()));
    (
        parts.iter().flat_map(|part| part.indices.clone()).collect(),
        parts.iter().flat_map(|part| part.images.clone()).collect(),
        rows.collect(),
    )
}

#[test]
fn ranks_and_parts_together_see_what_one_rank_sees_at_once_when_masks_are_cut_over_all() {
    let data = scenes(26);
    for sampler in [Sampler::Fixed, Sampler::Reference] {
        let base = config(2, 1, 5);
        let masks = MaskConfig { sampler, ..base.masks.clone() };
        let base = LoaderConfig { batch_size: 11, truncate_over: TruncateOver::Global, masks, ..base };
        let whole = all(&data, base.clone()).expect("loads");
        for (world, accumulate) in [(2, 1), (1, 2), (3, 1), (2, 3)] {
            let rank =
                |rank| all(&data, LoaderConfig { rank, world, accumulate, ..base.clone() }).expect("a rank's batches");
            let ranks: Vec<Vec<Batch>> = (0..world).map(rank).collect();
            for (step, one) in whole.iter().enumerate() {
                let parts: Vec<Batch> =
                    ranks.iter().flat_map(|rank| rank[step * accumulate..][..accumulate].to_vec()).collect();
                assert!(parts.iter().all(|part| part.step == one.step && part.together == 11));
                assert_eq!(joined(&parts), joined(std::slice::from_ref(one)), "{sampler:?} {world} {accumulate}");
            }
        }
    }
}

#[test]
fn masks_of_a_rank_are_cut_over_its_own_images_where_that_is_asked_for() {
    let data = scenes(64);
    let base = LoaderConfig { batch_size: 32, ..config(2, 0, 8) };
    let lengths = |truncate_over| -> Vec<usize> {
        let batches = all(&data, LoaderConfig { world: 4, truncate_over, ..base.clone() }).expect("loads");
        batches.iter().map(|batch| batch.masks.context[0].per_image).collect()
    };
    let (own, of_all) = (lengths(TruncateOver::Rank), lengths(TruncateOver::Global));
    assert!(own.iter().zip(&of_all).all(|(own, of_all)| own >= of_all), "{own:?} {of_all:?}");
    assert_ne!(own, of_all);
}

fn picture_folder(root: &Path, good: usize, bad: usize) -> Arc<Dataset> {
    for k in 0..good {
        let pixels = image::RgbImage::from_pixel(20, 20, image::Rgb([k as u8 * 10, 0, 0]));
        pixels.save(root.join(format!("{k:02}.png"))).expect("saved");
    }
    for k in 0..bad {
        std::fs::write(root.join(format!("bad{k}.jpg")), "not a picture").expect("written");
    }
    Arc::new(Dataset::open(root.to_str().expect("UTF-8"), Split::Train, 0).expect("a tree"))
}

#[test]
fn unreadable_images_are_replaced_counted_and_named_once() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let data = picture_folder(folder.path(), 10, 2);
    let batches = all(&data, config(1, 0, 9)).expect("two bad images are within the limit");
    assert_eq!(batches, all(&data, config(3, 0, 9)).expect("loads"));
    assert_eq!(batches.last().expect("9 batches").skipped, 2);
    let named: Vec<_> = batches.iter().flat_map(|batch| &batch.unreadable).collect();
    assert_eq!(named.len(), 2);
    assert!(named.iter().all(|unreadable| unreadable.error.contains("bad")), "{named:?}");
    assert!(batches.iter().all(|batch| batch.indices.iter().all(|&index| index < 10)));
    assert!(batches.windows(2).all(|pair| pair[0].skipped <= pair[1].skipped));
}

#[test]
fn too_many_unreadable_images_end_the_run_with_their_number_and_name() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let data = picture_folder(folder.path(), 5, 4);
    let (named, error) = given_up(&data, LoaderConfig { skip_limit: 3, ..config(2, 0, 50) });
    assert!(matches!(error, DataError::TooManyUnreadable { count: 4, limit: 3, .. }), "{error}");
    assert!(error.to_string().contains("bad") && error.to_string().contains("skip_limit"), "{error}");
    assert_eq!(named, [5, 6, 7, 8]);
}

#[test]
fn data_of_which_nothing_can_be_read_is_not_called_a_matter_of_the_limit() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let data = picture_folder(folder.path(), 0, 4);
    let (named, error) = given_up(&data, LoaderConfig { skip_limit: 1000, ..config(2, 0, 50) });
    assert!(matches!(error, DataError::NothingReadable { tries: 101, .. }), "{error}");
    assert!(error.to_string().contains("101 images") && !error.to_string().contains("limit"), "{error}");
    assert_eq!(named, [0, 1, 2, 3]);
}

/// The images named until the loader gave up, each once, and its error.
fn given_up(data: &Arc<Dataset>, config: LoaderConfig) -> (Vec<usize>, DataError) {
    let mut loader = TrainLoader::start(Arc::clone(data), config).expect("it starts");
    let mut named = Vec::new();
    let error = loop {
        match loader.next() {
            Ok(batch) => named.extend(batch.expect("it gives up before the end").unreadable),
            Err(error) => break error,
        }
    };
    named.extend(error.unreadable().to_vec());
    let mut named: Vec<usize> = named.into_iter().map(|unreadable| unreadable.index).collect();
    named.sort_unstable();
    (named, error)
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let data = scenes(19);
    let good = config(1, 0, 4);
    for bad in [
        LoaderConfig { batch_size: 20, ..good.clone() },
        LoaderConfig { batch_size: 0, ..good.clone() },
        LoaderConfig { transform: TrainTransform { crop_size: 0, ..good.transform }, ..good.clone() },
        LoaderConfig { masks: MaskConfig { min_keep: 60, ..good.masks.clone() }, ..good.clone() },
    ] {
        assert!(TrainLoader::start(Arc::clone(&data), bad.clone()).is_err(), "{bad:?}");
    }
}

#[test]
fn dropping_a_loader_early_ends_it() {
    let mut loader = TrainLoader::start(scenes(100), config(3, 0, u64::MAX)).expect("starts");
    assert_eq!(loader.next().expect("loads").map(|batch| batch.step), Some(0));
    drop(loader);
}

#[test]
fn tensors_bypass_the_crop_and_must_have_its_size() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("data.safetensors");
    let bytes: Vec<u8> = (0..6 * 768).flat_map(|k| (k as f32).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![6, 3, 16, 16], &bytes).expect("fits");
    std::fs::write(&path, safetensors::serialize([("images", view)], None).expect("serialises")).expect("written");
    let data = Arc::new(Dataset::open(path.to_str().expect("UTF-8"), Split::Train, 0).expect("tensors"));
    let batch = all(&data, config(2, 0, 1)).expect("loads").remove(0);
    for (image, &index) in batch.images.chunks_exact(768).zip(&batch.indices) {
        assert_eq!((image[0], image[767]), (index as f32 * 768.0, index as f32 * 768.0 + 767.0));
    }
    let mut other = config(1, 0, 1);
    other.transform.crop_size = 32;
    let error = TrainLoader::start(data, other).expect_err("16 is not 32");
    assert!(matches!(error, DataError::Size { expected: (32, 32), got: (16, 16), .. }), "{error}");
}

#[test]
fn an_evaluation_visits_every_readable_image_once_in_order() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let data = picture_folder(folder.path(), 11, 1);
    for threads in [1, 4] {
        let transform = EvalTransform {
            crop: (8, 8),
            filter: Filter::Bilinear,
            fit: Fit::Cut,
            normalisation: Normalisation { mean: [0.0; 3], std: [1.0; 3] },
        };
        let eval = EvalConfig { batch_size: 5, threads, queue: 2, transform };
        let mut loader = EvalLoader::start(Arc::clone(&data), eval).expect("starts");
        let (mut indices, mut unreadable) = (Vec::new(), Vec::new());
        while let Some(batch) = loader.next().expect("loads") {
            assert_eq!(batch.images.len(), batch.indices.len() * 3 * 64);
            for (image, &index) in batch.images.chunks_exact(192).zip(&batch.indices) {
                assert_eq!(image[0], index as f32 * 10.0 / 255.0);
            }
            indices.extend(batch.indices);
            unreadable.extend(batch.unreadable);
        }
        assert_eq!(indices, (0..11).collect::<Vec<_>>());
        assert_eq!(unreadable.len(), 1);
        assert_eq!(unreadable[0].index, 11);
    }
}
