//! Files that PyTorch wrote: every tensor, moment and number arrives where it belongs.

use std::path::PathBuf;

use ijepa_model::checkpoint::{self, Checkpoint, Reader, Source, Tensor};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn block(names: &mut Vec<(String, Vec<usize>)>, prefix: &str, width: usize, hidden: usize) {
    for (name, shape) in [
        ("norm1.weight", vec![width]),
        ("norm1.bias", vec![width]),
        ("attn.qkv.weight", vec![3 * width, width]),
        ("attn.qkv.bias", vec![3 * width]),
        ("attn.proj.weight", vec![width, width]),
        ("attn.proj.bias", vec![width]),
        ("norm2.weight", vec![width]),
        ("norm2.bias", vec![width]),
        ("mlp.fc1.weight", vec![hidden, width]),
        ("mlp.fc1.bias", vec![hidden]),
        ("mlp.fc2.weight", vec![width, hidden]),
        ("mlp.fc2.bias", vec![width]),
    ] {
        names.push((format!("{prefix}{name}"), shape));
    }
}

struct Sizes {
    patches: usize,
    patch: usize,
    depth: usize,
    width: usize,
    predictor_width: usize,
    /// Hidden width of an MLP, in widths.
    ratio: usize,
}

/// The encoder's parameters in the order in which the optimiser meets them.
fn encoder(network: &str, s: &Sizes) -> Vec<(String, Vec<usize>)> {
    let d = s.width;
    let mut names = vec![
        (format!("{network}.pos_embed"), vec![1, s.patches, d]),
        (format!("{network}.patch_embed.proj.weight"), vec![d, 3, s.patch, s.patch]),
        (format!("{network}.patch_embed.proj.bias"), vec![d]),
    ];
    for i in 0..s.depth {
        block(&mut names, &format!("{network}.blocks.{i}."), d, s.ratio * d);
    }
    names.push((format!("{network}.norm.weight"), vec![d]));
    names.push((format!("{network}.norm.bias"), vec![d]));
    names
}

fn predictor(s: &Sizes) -> Vec<(String, Vec<usize>)> {
    let (d, p) = (s.width, s.predictor_width);
    let mut names = vec![
        ("predictor.mask_token".to_string(), vec![1, 1, p]),
        ("predictor.predictor_pos_embed".to_string(), vec![1, s.patches, p]),
        ("predictor.predictor_embed.weight".to_string(), vec![p, d]),
        ("predictor.predictor_embed.bias".to_string(), vec![p]),
    ];
    for i in 0..s.depth {
        block(&mut names, &format!("predictor.predictor_blocks.{i}."), p, s.ratio * p);
    }
    names.push(("predictor.predictor_norm.weight".to_string(), vec![p]));
    names.push(("predictor.predictor_norm.bias".to_string(), vec![p]));
    names.push(("predictor.predictor_proj.weight".to_string(), vec![d, p]));
    names.push(("predictor.predictor_proj.bias".to_string(), vec![d]));
    names
}

const TINY: Sizes = Sizes { patches: 64, patch: 4, depth: 2, width: 192, predictor_width: 96, ratio: 4 };

fn all(sizes: &Sizes) -> Vec<(String, Vec<usize>)> {
    [encoder("encoder", sizes), predictor(sizes), encoder("target_encoder", sizes)].concat()
}

/// Sum and Euclidean norm in f64.
fn sum_and_norm<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> (f64, f64) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for &value in tensors.flat_map(|tensor| &tensor.values) {
        sum += f64::from(value);
        squares += f64::from(value) * f64::from(value);
    }
    (sum, squares.sqrt())
}

/// Sums of the same f32 in f64 differ by their order only: a million terms of size 1 by far less than this.
fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{got} is not {expected}");
}

#[test]
fn the_reference_checkpoint_has_every_tensor_of_the_three_networks_and_no_other() {
    let read = checkpoint::read(&golden("reference_tiny/init.pth.tar")).expect("the reference's file");
    assert_eq!(read.tensors.len(), 29 + 32 + 29);
    let reader = Reader::open(&golden("reference_tiny/init.pth.tar")).expect("the reference's file");
    reader.require(&all(&TINY)).expect("names and shapes");
}

#[test]
fn the_reference_checkpoint_says_what_pytorch_says_it_says() {
    let read = checkpoint::read(&golden("reference_tiny/init.pth.tar")).expect("the reference's file");
    assert_eq!(read.meta.source, Source::Reference);
    assert_eq!(read.meta.epoch, Some(0));
    assert_eq!(read.moments, None, "its optimiser has not stepped");
    for (key, text) in [("batch_size", "8"), ("world_size", "1"), ("lr", "0.001"), ("loss", "0")] {
        assert_eq!(read.meta.other[key], text);
    }
}

#[test]
fn the_reference_checkpoint_has_the_values_that_pytorch_reads() {
    let read = checkpoint::read(&golden("reference_tiny/init.pth.tar")).expect("the reference's file");
    for (network, sum, norm) in [
        ("encoder.", 6966.950212044002, 88.00110213230285),
        ("predictor.", 3473.1808382050167, 61.184874813127564),
        ("target_encoder.", 6973.424493158931, 88.12843157502402),
    ] {
        let tensors = read.tensors.iter().filter(|(name, _)| name.starts_with(network));
        let (got_sum, got_norm) = sum_and_norm(tensors.map(|(_, tensor)| tensor));
        close(got_sum, sum);
        close(got_norm, norm);
    }
    for (name, sum, norm, first) in [
        (
            "encoder.blocks.1.attn.qkv.weight",
            -4.955950071082043,
            9.396247821694361,
            [-0.013596522621810436, 0.07054217159748077, 0.012456495314836502],
        ),
        (
            "predictor.mask_token",
            -0.25294588651740924,
            0.26556112294539014,
            [0.023267999291419983, -0.03745868057012558, -0.03202887624502182],
        ),
        (
            "target_encoder.patch_embed.proj.weight",
            -1.269043816588237,
            2.799870288724552,
            [-0.00461947824805975, 0.0018546157516539097, 0.03592056408524513],
        ),
        (
            "predictor.predictor_proj.bias",
            0.573833715665387,
            0.6988742483610927,
            [-0.06658066064119339, -0.05539024621248245, 0.011259946040809155],
        ),
    ] {
        let tensor = &read.tensors[name];
        let (got_sum, got_norm) = sum_and_norm(std::iter::once(tensor));
        close(got_sum, sum);
        close(got_norm, norm);
        let got: Vec<f64> = tensor.values[..3].iter().map(|&value| value.into()).collect();
        assert_eq!(got, first, "{name}");
    }
}

#[test]
fn the_reference_checkpoint_survives_a_round_trip_through_our_format() {
    let read = checkpoint::read(&golden("reference_tiny/init.pth.tar")).expect("the reference's file");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("init.safetensors");
    checkpoint::write(&path, &read).expect("written");
    let ours = checkpoint::read(&path).expect("read");
    assert_eq!(ours.tensors, read.tensors);
    assert_eq!((ours.meta.epoch, ours.meta.other), (read.meta.epoch, read.meta.other));
    assert_eq!(ours.meta.source, Source::Ours);
}

#[test]
fn the_reference_checkpoint_is_listed_with_its_sizes() {
    let summary = checkpoint::list(&golden("reference_tiny/init.pth.tar")).expect("listed");
    let parts: Vec<_> = summary.parts.iter().map(|part| (part.name, part.tensors, part.parameters)).collect();
    assert_eq!(parts, [("encoder", 29, 911_808), ("predictor", 32, 267_264), ("target_encoder", 29, 911_808)]);
    assert_eq!(summary.format, "PyTorch zip archive");
    assert_eq!(summary.tensors.iter().map(|tensor| tensor.bytes).sum::<u64>(), 4 * (2 * 911_808 + 267_264));
    assert!(summary.notes.is_empty(), "{:?}", summary.notes);
}

/// In `adamw.pth.tar` parameter i of a network is base + i, base + i + 1/64, …, and its moments are base + i + 1/4 and base + i + 1/2.
#[test]
fn moments_of_four_groups_reach_the_parameters_that_they_belong_to() {
    let sizes = Sizes { patches: 4, patch: 2, depth: 1, width: 4, predictor_width: 2, ratio: 2 };
    let read = checkpoint::read(&golden("torch_files/adamw.pth.tar")).expect("written by PyTorch");
    let reader = Reader::open(&golden("torch_files/adamw.pth.tar")).expect("written by PyTorch");
    reader.require(&all(&sizes)).expect("names and shapes");
    let moments = read.moments.as_ref().expect("its optimiser has stepped");
    assert_eq!(moments.step, 3);
    let mut with_moments = 0;
    for (base, names) in
        [(0.0, encoder("encoder", &sizes)), (100.0, predictor(&sizes)), (200.0, encoder("target_encoder", &sizes))]
    {
        for (i, (name, shape)) in names.iter().enumerate() {
            let first = base + i as f32;
            let values = &read.tensors[name].values;
            assert_eq!(values[..2], [first, first + 1.0 / 64.0], "{name}");
            if base == 200.0 || name.ends_with("pos_embed") {
                assert!(!moments.exp_avg.contains_key(name), "{name} has no gradient");
                continue;
            }
            for (moment, expected) in [(&moments.exp_avg, 0.25), (&moments.exp_avg_sq, 0.5)] {
                assert_eq!(&moment[name].shape, shape);
                assert!(moment[name].values.iter().all(|&value| value == first + expected), "{name}");
            }
            with_moments += 1;
        }
    }
    assert_eq!(moments.exp_avg.len(), with_moments);
    assert_eq!(moments.exp_avg_sq.len(), with_moments);
    assert_eq!(read.meta.epoch, Some(2));
    for (key, text) in [
        ("loss", "0.125"),
        ("batch_size", "16"),
        ("world_size", "4"),
        ("scaler.scale", "65536"),
        ("scaler._growth_tracker", "3"),
    ] {
        assert_eq!(read.meta.other[key], text);
    }
}

#[test]
fn moments_survive_a_round_trip_through_our_format() {
    let read = checkpoint::read(&golden("torch_files/adamw.pth.tar")).expect("written by PyTorch");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("adamw.safetensors");
    checkpoint::write(&path, &read).expect("written");
    assert_eq!(checkpoint::read(&path).expect("read").moments, read.moments);
}

fn values<'a>(read: &'a Checkpoint, name: &str, shape: &[usize]) -> &'a [f32] {
    assert_eq!(read.tensors[name].shape, shape, "{name}");
    &read.tensors[name].values
}

#[test]
fn a_plain_state_dictionary_of_every_layout_and_type_is_read_as_pytorch_means_it() {
    const ZIP: &str = "PyTorch zip archive";
    for (file, format) in [
        ("torch_files/variety.pt", ZIP),
        ("torch_files/variety_protocol4.pt", ZIP),
        ("torch_files/variety_legacy.pt", "PyTorch file from before 1.6"),
    ] {
        let read = checkpoint::read(&golden(file)).expect("written by PyTorch");
        assert_eq!(read.meta.source, Source::Other);
        // Views of 0, 1, …, 23 as (2, 3, 4).
        let at = |i: usize, j: usize, k: usize| (i * 12 + j * 4 + k) as f32;
        let mut transposed = Vec::new();
        for k in 0..4 {
            for i in 0..2 {
                transposed.extend((0..3).map(|j| at(i, j, k)));
            }
        }
        assert_eq!(values(&read, "transposed", &[4, 2, 3]), transposed);
        assert_eq!(values(&read, "slice", &[3, 2]), [13.0, 14.0, 17.0, 18.0, 21.0, 22.0]);
        assert_eq!(values(&read, "column", &[2]), [6.0, 18.0]);
        assert_eq!(values(&read, "tied", &[6]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(values(&read, "tied_again", &[2, 3]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        // What the types can hold of 1.5, -0.25, 65504, 6e-8; of 1.5, -3e38, 1e-40; of 1.5, 1e-300, 0.1; of 1, -2, 2^40.
        let tiny = f32::from_bits(0x3380_0000);
        assert_eq!(values(&read, "half", &[4]), [1.5, -0.25, 65504.0, tiny]);
        let (large, small) = (f32::from_bits(0xff62_0000), f32::from_bits(0x0001_0000));
        assert_eq!(values(&read, "bfloat", &[3]), [1.5, large, small]);
        assert_eq!(values(&read, "double", &[3]), [1.5, 0.0, 0.1]);
        assert_eq!(values(&read, "long", &[3]), [1.0, -2.0, 1_099_511_627_776.0]);
        assert_eq!(values(&read, "scalar", &[]), [7.0]);
        assert_eq!(values(&read, "empty", &[0, 3]), [0.0; 0]);
        assert_eq!(values(&read, "parameter", &[2]), [2.0, 3.0]);
        assert_eq!(read.tensors.len(), 12);
        assert_eq!(read.meta.other["best"], "0.75");
        assert_eq!(read.meta.other["big"], "1099511627776");
        let summary = checkpoint::list(&golden(file)).expect("listed");
        assert_eq!(summary.format, format);
        assert_eq!(summary.notes, ["`size` is not read: a tuple of 2"]);
    }
}
