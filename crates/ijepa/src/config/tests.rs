//! Claims about run files.

use proptest::prelude::*;

use super::*;

/// A run file with the keys and values of the reference's released configurations, in a layout of our own.
fn released(
    batch_size: usize,
    crop_size: usize,
    patch: usize,
    model: (&str, usize),
    epochs: usize,
    warmup: usize,
) -> String {
    let (name, depth) = model;
    format!(
        "meta: {{model_name: {name}, pred_depth: {depth}, pred_emb_dim: 384, use_bfloat16: true, copy_data: false,\n\
         \x20      load_checkpoint: false, read_checkpoint: null}}\n\
         data:\n  batch_size: {batch_size}\n  crop_size: {crop_size}\n  crop_scale: [0.3, 1.0]\n  num_workers: 10\n  pin_mem: true\n\
         \x20 color_jitter_strength: 0.0\n  use_color_distortion: false\n  use_gaussian_blur: false\n  use_horizontal_flip: false\n\
         \x20 root_path: /data\n  image_folder: imagenet/\n\
         mask:\n  patch_size: {patch}\n  num_enc_masks: 1\n  num_pred_masks: 4\n  min_keep: 10\n  allow_overlap: false\n\
         \x20 enc_mask_scale: [0.85, 1.0]\n  pred_mask_scale: [0.15, 0.2]\n  aspect_ratio: [0.75, 1.5]\n\
         optimization:\n  epochs: {epochs}\n  warmup: {warmup}\n  start_lr: 0.0002\n  lr: 0.001\n  final_lr: 1.0e-06\n\
         \x20 weight_decay: 0.04\n  final_weight_decay: 0.4\n  ema: [0.996, 1.0]\n  ipe_scale: 1.0\n\
         logging:\n  folder: logs/\n  write_tag: jepa\n"
    )
}

fn said(text: &str) -> String {
    format!("{:#}", parse(text, "a.yaml").expect_err("it is refused"))
}

#[test]
fn the_four_released_configurations_resolve_to_their_networks() {
    let huge = ("vit_huge", 12);
    for (text, tokens, width, depth, hidden) in [
        (released(128, 224, 14, huge, 300, 40), 256, 1280, 32, 5120),
        (released(16, 448, 16, huge, 300, 40), 784, 1280, 32, 5120),
        (released(32, 224, 14, huge, 66, 3), 256, 1280, 32, 5120),
        (released(16, 224, 16, ("vit_giant", 16), 44, 3), 196, 1408, 40, 6144),
    ] {
        let (config, _) = parse(&text, "released.yaml").expect("a released configuration is valid");
        let vit = encoder_config(&config);
        assert_eq!((vit.patches(), vit.width, vit.depth, vit.heads, vit.hidden), (tokens, width, depth, 16, hidden));
        assert_eq!(predictor_config(&config).width, 384);
        mask_config(&config).validate().expect("a released configuration has masks");
        assert_eq!(config.optimization.final_lr, 1e-6);
        assert_eq!(config.method, Method::Ijepa);
        assert_eq!(config.mask.sampler, Sampler::Reference);
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    let (config, origins) = parse("data:\n", "a.yaml").expect("it is valid");
    assert_eq!(config, Config::default());
    assert_eq!(origins.of("data.batch_size"), "data.batch_size (default)");
}

#[test]
fn a_misspelt_key_is_refused_with_its_line_and_the_nearest_right_one() {
    for (text, message) in [
        (
            "optimization:\n  lr: 1e-3\n  warm_up: 3\n",
            "optimization.warm_up (a.yaml:3) is not a key; did you mean optimization.warmup?",
        ),
        ("data:\n  patch_size: 4\n", "data.patch_size (a.yaml:2) is not a key; did you mean mask.patch_size?"),
        ("epochs: 4\n", "epochs (a.yaml:1) is not a key; did you mean optimization.epochs?"),
        (
            "optimisation:\n  epochs: 4\n",
            "optimisation.epochs (a.yaml:2) is not a key; did you mean optimization.epochs?",
        ),
        ("mask:\n  samplr: fixed\n", "mask.samplr (a.yaml:2) is not a key; did you mean mask.sampler?"),
        ("data:\n  zebra_crossings: 4\n", "data.zebra_crossings (a.yaml:2) is not a key"),
    ] {
        assert_eq!(said(text), message);
    }
}

#[test]
fn a_wrong_type_says_expected_and_got() {
    for (text, message) in [
        ("data:\n  batch_size: 8.5\n", "data.batch_size (a.yaml:2): expected a whole number, got `8.5`"),
        ("data:\n  batch_size: [1, 2]\n", "data.batch_size (a.yaml:2): expected a whole number, got [`1`, `2`]"),
        ("data:\n  crop_scale: 0.3\n", "data.crop_scale (a.yaml:2): expected a list of 2 numbers, got `0.3`"),
        (
            "data:\n  crop_scale: [0.3, x]\n",
            "data.crop_scale (a.yaml:2): expected a list of 2 numbers, got [`0.3`, `x`]",
        ),
        ("data:\n  pin_mem: 2\n", "data.pin_mem (a.yaml:2): expected true or false, got `2`"),
        ("optimization:\n  lr: fast\n", "optimization.lr (a.yaml:2): expected a number, got `fast`"),
        ("optimization:\n  lr: .inf\n", "optimization.lr (a.yaml:2): expected a number, got `.inf`"),
        (
            "logging:\n  save_every: 10\n",
            "logging.save_every (a.yaml:2): expected a number and its unit, such as `10 steps` or `0.5 epochs`, got `10`",
        ),
        ("mask:\n  sampler: exact\n", "mask.sampler (a.yaml:2): expected one of reference, fixed, got `exact`"),
        ("method: mae\n", "method (a.yaml:1): expected `ijepa`, got `mae`"),
    ] {
        assert_eq!(said(text), message);
    }
}

#[test]
fn what_pyyaml_users_are_used_to_is_understood() {
    let text = "data: {pin_mem: no, use_gaussian_blur: On, batch_size: 1_000}\n\
                optimization: {final_lr: 1e-6, lr: 1.0e-3, epochs: 10.0, warmup: 1}\nmeta: {read_checkpoint: ~}\n";
    let (config, _) = parse(text, "a.yaml").expect("it is valid");
    assert!(!config.data.pin_mem && config.data.use_gaussian_blur);
    assert_eq!((config.data.batch_size, config.optimization.epochs), (1000, 10));
    assert_eq!((config.optimization.final_lr, config.optimization.lr, config.optimization.warmup), (1e-6, 1e-3, 1.0));
    assert_eq!(config.meta.read_checkpoint, None);
}

#[test]
fn set_wins_over_the_file_and_the_file_over_the_default() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("run.yaml");
    std::fs::write(&path, "data:\n  batch_size: 8\n  crop_size: 28\n").expect("it can be written");
    let (config, origins) =
        load(Some(&path), &["data.batch_size=16".into(), "data.crop_scale=[0.5, 1]".into()]).expect("it is valid");
    assert_eq!((config.data.batch_size, config.data.crop_size, config.data.crop_scale), (16, 28, [0.5, 1.0]));
    assert_eq!(origins.of("data.batch_size"), "data.batch_size (--set)");
    assert_eq!(origins.of("data.crop_size"), format!("data.crop_size ({}:3)", path.display()));
    assert_eq!(origins.of("data.num_workers"), "data.num_workers (default)");
}

#[test]
fn all_problems_are_told_at_once() {
    let error = said("data:\n  batch: 8\nmask:\n  min_kep: 4\n");
    assert!(error.starts_with("2 problems"), "{error}");
    assert!(error.contains("data.batch_size") && error.contains("mask.min_keep"), "{error}");
}

#[test]
fn values_that_cannot_work_together_are_refused_with_the_numbers() {
    for (text, parts) in [
        ("data: {crop_size: 225}\n", &["225", "14", "224 or 238"][..]),
        ("meta: {model_name: vit_tiny, pred_emb_dim: 100}\n", &["100 wide", "3 heads", "96 or 108", "model_name"]),
        ("meta: {enc_emb_dim: 90, enc_heads: 5, pred_emb_dim: 20}\n", &["90 wide", "5 heads", "80 or 100"]),
        ("meta: {enc_heads: 0}\n", &["meta.enc_heads", "at least 1"]),
        ("data: {crop_scale: [0.9, 0.3]}\n", &["data.crop_scale", "least first", "[0.9, 0.3]"]),
        ("mask: {pred_mask_scale: [0.1, 1.5]}\n", &["mask.pred_mask_scale", "at most 1"]),
        ("optimization: {epochs: 40}\n", &["40 epochs", "fewer than"]),
        ("optimization: {ema: [1.0, 0.9]}\n", &["optimization.ema", "not falling"]),
        ("optimization: {ipe_scale: 0.5}\n", &["optimization.ipe_scale", "0.5"]),
        ("optimization: {lr: -1}\n", &["optimization.lr", "-1"]),
        ("data: {std: [0.2, 0, 0.2]}\n", &["data.std", "above 0"]),
        ("data: {std: [0.2, 1.0e+300, 0.2]}\n", &["data.std", "1e30", "1e300"]),
        ("data: {mean: [0.2, 1.0e+300, 0.2]}\n", &["data.mean", "1e30", "1e300"]),
        ("data: {color_jitter_strength: 3}\n", &["data.color_jitter_strength", "0 to 2.5", "3"]),
        ("data: {batch_size: 0}\n", &["data.batch_size", "at least 1"]),
        ("data: {crop_size: 8000}\nmask: {patch_size: 1}\n", &["data.crop_size", "65536", "64000000"]),
        ("meta: {enc_emb_dim: 18446744073709551612}\n", &["meta.enc_emb_dim", "at most 16384", "18446744073709551612"]),
        ("meta: {enc_heads: 18446744073709551615}\n", &["meta.enc_heads", "at most 16384"]),
        ("meta: {pred_emb_dim: 1000000}\n", &["meta.pred_emb_dim", "at most 16384", "1000000"]),
        ("meta: {enc_depth: 1000000000}\n", &["meta.enc_depth", "at most 1000", "1000000000"]),
        ("logging: {write_tag: a/b}\n", &["logging.write_tag", "a/b"]),
    ] {
        let error = said(text);
        for part in parts {
            assert!(error.contains(part), "{text:?} should be refused with {part:?}: {error}");
        }
    }
}

#[test]
fn differences_name_the_keys() {
    let (mut changed, config) = (Config::default(), Config::default());
    changed.optimization.lr = 0.5;
    assert_eq!(config.differences(&changed), [("optimization.lr", "0.001".to_owned(), "0.5".to_owned())]);
    assert_eq!(config.differences(&config), []);
}

#[test]
fn every_run_file_of_the_project_resolves() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
    for file in std::fs::read_dir(folder).expect("the project has run files") {
        let path = file.expect("the folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            load(Some(&path), &[]).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        }
    }
}

proptest! {
    #[test]
    fn the_written_configuration_reads_back_equal(
        reals in prop::collection::vec(prop_oneof![0.0..1.0f64, 1e-12..1e-3f64, 1.0..1e6f64], 4),
        counts in prop::collection::vec(1usize..1000, 4),
        texts in prop::collection::vec("\\PC{0,12}", 3),
        maybe in prop::option::of("[a-z~ #:'\"\\\\]{0,6}"),
        seed: u64,
        flag: bool,
    ) {
        let mut config = Config::default();
        config.data.batch_size = counts[0];
        config.data.skip_limit = counts[1];
        config.data.root_path.clone_from(&texts[0]);
        config.data.path = maybe.clone();
        config.data.pin_mem = flag;
        config.data.mean = [reals[0], reals[1], -reals[2]];
        config.logging.folder.clone_from(&texts[1]);
        config.logging.log_every = Every::Steps(counts[2] as u64);
        config.logging.save_every = Every::Epochs(reals[3] + 1e-9);
        config.mask.sampler = if flag { Sampler::Fixed } else { Sampler::Reference };
        config.meta.enc_depth = flag.then_some(counts[3]);
        config.meta.read_checkpoint = maybe;
        config.meta.seed = seed;
        config.optimization.lr = reals[0];
        config.optimization.final_lr = reals[1];
        config.optimization.weight_decay = reals[2];
        let text = config.to_yaml();
        let (read, _) = parse(&text, "written.yaml").unwrap_or_else(|error| panic!("{error:#}\n{text}"));
        prop_assert_eq!(read, config, "{}", text);
    }
}
