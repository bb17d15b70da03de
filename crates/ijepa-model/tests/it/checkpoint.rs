//! Our own checkpoints: what is written is what is read, bit for bit, or nothing has changed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use ijepa_model::checkpoint::{self, Checkpoint, CheckpointError, Meta, Moments, Reader, Source, Tensor, View};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn tensor(shape: &[usize], first: f32) -> Tensor {
    let elements: usize = shape.iter().product();
    Tensor { shape: shape.to_vec(), values: (0..elements).map(|i| first + i as f32).collect() }
}

fn tensors(pairs: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    pairs.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect()
}

/// Two networks with moments of one parameter and all metadata.
fn example() -> Checkpoint {
    Checkpoint {
        tensors: tensors(&[
            ("encoder.pos_embed", tensor(&[1, 4, 2], 0.5)),
            ("encoder.norm.weight", tensor(&[2], 1.0)),
            ("predictor.mask_token", tensor(&[1, 1, 2], -3.0)),
            ("target_encoder.norm.weight", tensor(&[2], 7.0)),
        ]),
        moments: Some(Moments {
            exp_avg: tensors(&[("encoder.norm.weight", tensor(&[2], 0.1))]),
            exp_avg_sq: tensors(&[("encoder.norm.weight", tensor(&[2], 0.2))]),
            step: 41,
        }),
        meta: Meta {
            step: Some(42),
            epoch: Some(3),
            method: Some("ijepa".to_string()),
            seed: Some(u64::MAX),
            config: Some("meta:\n  model_name: \"vit_tiny\" # ü\n".to_string()),
            other: BTreeMap::from([("note".to_string(), "a \"quoted\"\nline".to_string())]),
            ..Meta::default()
        },
    }
}

fn without_file(mut checkpoint: Checkpoint) -> Checkpoint {
    checkpoint.meta.path = None;
    checkpoint.meta.version = None;
    checkpoint
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the scratch folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let read = checkpoint::read(&path).expect("read");
    assert_eq!(read.meta.path.as_deref(), Some(path.as_path()));
    assert!(read.meta.version.is_some());
    assert_eq!(without_file(read), example());
    assert_eq!(names_in(folder.path()), ["latest.safetensors"]);
}

#[test]
fn the_same_checkpoint_is_written_as_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    checkpoint::write(&a, &example()).expect("written");
    let read = checkpoint::read(&a).expect("read");
    checkpoint::write(&b, &read).expect("written");
    assert_eq!(fs::read(&a).expect("a"), fs::read(&b).expect("b"));
}

#[test]
fn the_safetensors_library_reads_our_files() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let bytes = fs::read(&path).expect("the file");
    let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("valid to the library");
    assert!(header.is_multiple_of(8), "data is aligned for those who map the file");
    let texts: &HashMap<String, String> = metadata.metadata().as_ref().expect("metadata");
    for (key, text) in [
        ("format", "pt"),
        ("step", "42"),
        ("epoch", "3"),
        ("method", "ijepa"),
        ("optimizer.step", "41"),
        ("seed", "18446744073709551615"),
    ] {
        assert_eq!(texts[key], text);
    }
    let file = SafeTensors::deserialize(&bytes).expect("valid to the library");
    assert_eq!(file.len(), 6);
    let moment = file.tensor("optimizer.exp_avg.encoder.norm.weight").expect("a moment");
    assert_eq!(moment.shape(), [2]);
    assert_eq!(moment.data(), [0.1f32.to_le_bytes(), 1.1f32.to_le_bytes()].concat());
}

#[test]
fn views_and_owned_tensors_are_written_as_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    let checkpoint = Checkpoint { moments: None, ..example() };
    checkpoint::write(&a, &checkpoint).expect("written");
    let views: Vec<View<'_>> = checkpoint
        .tensors
        .iter()
        .map(|(name, tensor)| View { name: name.clone(), shape: &tensor.shape, values: &tensor.values })
        .collect();
    checkpoint::write_views(&b, &checkpoint.meta, None, &views).expect("written");
    assert_eq!(fs::read(&a).expect("a"), fs::read(&b).expect("b"));
}

#[test]
fn tensors_longer_than_the_buffers_keep_their_order() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("large");
    let large = Checkpoint {
        tensors: tensors(&[("encoder.a", tensor(&[3, 70_001], 0.0)), ("encoder.b", tensor(&[65_536], 1e6))]),
        ..Checkpoint::default()
    };
    checkpoint::write(&path, &large).expect("written");
    assert_eq!(checkpoint::read(&path).expect("read").tensors, large.tensors);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_round_trip_keeps_every_bit(
        contents in prop::collection::btree_map(
            "(encoder|predictor|target_encoder)\\.[a-zé.\"\\\\]{1,9}",
            prop::collection::vec(any::<u32>(), 0..40),
            0..6,
        ),
        step in any::<Option<u64>>(),
        config in any::<Option<String>>(),
    ) {
        // Signalling and quiet NaNs with payloads, infinities, subnormals and both zeros are all among these.
        let special = [0x7fc0_0001, 0x7f80_0001, 0xffbf_ffff, 0x7f80_0000, 0x8000_0000, 1];
        let tensors: BTreeMap<String, Tensor> = contents
            .iter()
            .map(|(name, bits)| {
                let values: Vec<f32> = special.iter().chain(bits).map(|&bits| f32::from_bits(bits)).collect();
                (name.clone(), Tensor { shape: vec![values.len()], values })
            })
            .collect();
        let written = Checkpoint { tensors, moments: None, meta: Meta { step, config, ..Meta::default() } };
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("file");
        checkpoint::write(&path, &written).expect("written");
        let read = checkpoint::read(&path).expect("read");
        prop_assert_eq!(read.meta.step, step);
        prop_assert_eq!(&read.meta.config, &written.meta.config);
        prop_assert_eq!(read.tensors.len(), written.tensors.len());
        for (name, tensor) in &written.tensors {
            let bits = |tensor: &Tensor| -> Vec<u32> { tensor.values.iter().map(|v| v.to_bits()).collect() };
            prop_assert_eq!(bits(tensor), bits(&read.tensors[name]));
        }
    }
}

#[test]
fn a_failed_write_leaves_the_earlier_file_and_no_other() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let before = fs::read(&path).expect("the file");
    // A second writer of the same process finds its temporary name taken.
    let taken = folder.path().join(format!("latest.safetensors.tmp-{}", std::process::id()));
    let held = fs::File::create(&taken).expect("a scratch file");
    held.lock().expect("locks work here");
    let error = checkpoint::write(&path, &Checkpoint::default()).expect_err("taken");
    assert!(matches!(error, CheckpointError::Write { .. }));
    assert!(error.to_string().contains("latest.safetensors"), "{error}");
    assert_eq!(fs::read(&path).expect("the file"), before);
    drop(held);
    fs::remove_file(&taken).expect("still there, since another holds it");
    assert_eq!(names_in(folder.path()), ["latest.safetensors"]);
}

#[test]
fn a_write_onto_a_folder_fails_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    fs::create_dir(&path).expect("a folder in the way");
    let error = checkpoint::write(&path, &example()).expect_err("a folder is in the way");
    assert!(matches!(error, CheckpointError::Write { .. }), "{error:?}");
    assert_eq!(names_in(folder.path()), ["latest.safetensors"]);
}

#[test]
fn a_write_into_a_missing_folder_names_the_path_and_the_way_out() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("runs/latest.safetensors");
    let error = checkpoint::write(&path, &example()).expect_err("no such folder");
    let message = error.to_string();
    assert!(message.contains("runs/latest.safetensors"), "{message}");
    assert!(message.contains("create the folder first"), "{message}");
}

/// The system refuses the write half-way, as a full disk does: this test runs itself again under a limit on the size of files.
#[cfg(unix)]
#[test]
fn a_write_that_fails_half_way_leaves_the_earlier_file_and_no_other() {
    const FOLDER: &str = "CHECKPOINT_TEST_FOLDER";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let large =
            Checkpoint { tensors: tensors(&[("encoder.a", tensor(&[1_000_000], 0.0))]), ..Checkpoint::default() };
        let path = Path::new(&folder).join("latest.safetensors");
        let error = checkpoint::write(&path, &large).expect_err("4 MB under a limit of 512 kB");
        assert!(matches!(error, CheckpointError::Write { .. }), "{error:?}");
        assert!(error.to_string().contains("cannot write"), "{error}");
        return;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let before = fs::read(&path).expect("the file");
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().expect("this program"))
        .arg("checkpoint::a_write_that_fails_half_way_leaves_the_earlier_file_and_no_other")
        .env(FOLDER, folder.path())
        .stdout(std::process::Stdio::null())
        .status()
        .expect("a shell");
    assert!(status.success());
    assert_eq!(fs::read(&path).expect("the file"), before);
    assert_eq!(names_in(folder.path()), ["latest.safetensors"]);
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    let error = CheckpointError::Write {
        path: "run/latest.safetensors".into(),
        action: "write run/latest.safetensors.tmp-1".to_string(),
        source: std::io::ErrorKind::StorageFull.into(),
    };
    let message = error.to_string();
    for words in ["run/latest.safetensors", "still whole", "free some space on that disk"] {
        assert!(message.contains(words), "{words} in: {message}");
    }
}

#[test]
fn what_a_killed_process_left_behind_is_removed_but_not_what_a_living_one_holds() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let name = |suffix: &str| folder.path().join(format!("latest.safetensors{suffix}"));
    fs::write(name(".tmp-1"), b"half a checkpoint").expect("a scratch file");
    fs::write(name(".tmp-note"), b"not ours").expect("a scratch file");
    fs::write(folder.path().join("other.safetensors.tmp-1"), b"of another name").expect("a scratch file");
    let living = fs::File::create(name(".tmp-2")).expect("a scratch file");
    living.lock().expect("locks work here");
    checkpoint::write(&name(""), &example()).expect("written");
    assert_eq!(
        names_in(folder.path()),
        ["latest.safetensors", "latest.safetensors.tmp-2", "latest.safetensors.tmp-note", "other.safetensors.tmp-1",]
    );
}

#[test]
fn one_tensor_is_read_without_the_rest() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let mut reader = Reader::open(&path).expect("opened");
    let name = "target_encoder.norm.weight";
    assert_eq!(reader.shape(name), Some(&[2][..]));
    assert_eq!(reader.read(name).expect("read"), example().tensors[name]);
    assert_eq!(reader.meta().step, Some(42));
}

#[test]
fn a_list_counts_each_network_apart_and_reads_no_values() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let summary = checkpoint::list(&path).expect("listed");
    let parts: Vec<_> =
        summary.parts.iter().map(|part| (part.name, part.tensors, part.parameters, part.bytes)).collect();
    assert_eq!(
        parts,
        [("encoder", 2, 10, 40), ("predictor", 1, 2, 8), ("target_encoder", 1, 2, 8), ("optimizer", 2, 4, 16),]
    );
    assert_eq!(summary.format, "safetensors");
    assert_eq!(summary.optimizer_step, Some(41));
    assert_eq!(summary.meta.source, Source::Ours);
    assert_eq!(summary.file_bytes, fs::metadata(&path).expect("the file").len());
    let first = &summary.tensors[0];
    assert_eq!((first.name.as_str(), first.shape.as_slice()), ("encoder.norm.weight", &[2][..]));
    assert_eq!((first.dtype, first.bytes), (checkpoint::Dtype::F32, 8));
}

#[test]
fn a_file_of_many_gigabytes_is_listed_from_its_header() {
    // A sparse file: 64 GiB of claimed and never written values.
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("large");
    let elements = 16u64 << 30;
    let header = serde_json::json!({
        "encoder.w": {"dtype": "F32", "shape": [elements], "data_offsets": [0, elements * 4]}
    })
    .to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).expect("a scratch file");
    let file = fs::OpenOptions::new().write(true).open(&path).expect("a scratch file");
    if file.set_len(8 + header.len() as u64 + elements * 4).is_ok() {
        assert_eq!(checkpoint::list(&path).expect("listed").parts[0].parameters, elements);
    }
}

#[test]
fn requiring_a_model_names_what_is_missing_surplus_and_of_another_shape() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("latest.safetensors");
    checkpoint::write(&path, &example()).expect("written");
    let reader = Reader::open(&path).expect("opened");
    let expect = |pairs: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        pairs.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
    };
    let fits = expect(&[("encoder.pos_embed", &[1, 4, 2]), ("encoder.norm.weight", &[2])]);
    reader.require(&fits).expect("other networks do not matter");

    let differs = expect(&[("encoder.pos_embed", &[1, 9, 2]), ("encoder.norm.bias", &[2])]);
    let error = reader.require(&differs).expect_err("another model");
    let CheckpointError::Mismatch(mismatch) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(mismatch.missing, ["encoder.norm.bias"]);
    assert_eq!(mismatch.surplus, ["encoder.norm.weight"]);
    assert_eq!(mismatch.differing, [("encoder.pos_embed".to_string(), vec![1, 9, 2], vec![1, 4, 2])]);
    assert_eq!(
        error.to_string(),
        format!(
            "{}: the tensors are not those of this model; \
             1 of another shape: encoder.pos_embed expected [1, 9, 2] got [1, 4, 2]; 1 missing: encoder.norm.bias; \
             1 surplus: encoder.norm.weight; use the configuration that the checkpoint was trained with (`ijepa inspect` \
             lists its tensors), or another checkpoint",
            path.display()
        )
    );

    let many: Vec<_> = (0..300).map(|i| (format!("encoder.blocks.{i}.norm"), vec![2])).collect();
    let message = reader.require(&many).expect_err("another model").to_string();
    assert!(message.contains("300 missing: encoder.blocks.0.norm") && message.len() < 600, "{message}");
}

#[test]
fn safetensors_of_others_keep_their_names_and_metadata() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("model.safetensors");
    let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![2], &data).expect("valid");
    let texts = HashMap::from([("format".to_string(), "pt".to_string()), ("step".to_string(), "many".to_string())]);
    safetensors::serialize_to_file([("module.blocks.0.w", view)], Some(texts), &path).expect("written");
    let read = checkpoint::read(&path).expect("read");
    assert_eq!(read.meta.source, Source::Other);
    assert_eq!(read.meta.other, BTreeMap::from([("step".to_string(), "many".to_string())]));
    assert_eq!(read.tensors["blocks.0.w"].values, [1.5, -2.0]);
}
