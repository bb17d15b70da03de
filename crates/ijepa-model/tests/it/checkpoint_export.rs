//! Files for other programs: read back, they hold every bit that was written.

use std::collections::BTreeMap;
use std::fs::File;

use ijepa_model::checkpoint::{self, Meta, Network, Object, Reader, Source, write_torch};
use ijepa_model::export::{
    self, Encoder, write_encoder, write_hugging_face, write_reference, write_timm, write_torch_encoder,
};
use ijepa_model::params::INIT_STD;
use ijepa_model::saved::{Hints, encoder, encoder_sizes, predictor_sizes, restore_encoder};
use ijepa_model::{Jepa, PredictorConfig, State, VitConfig};
use ijepa_tensor::Buf;
use proptest::prelude::*;
use zip::ZipArchive;

const SIZES: VitConfig = VitConfig { image: (4, 6), patch: 2, channels: 3, width: 8, depth: 2, heads: 2, hidden: 16 };

fn model() -> Jepa {
    Jepa::new(SIZES, PredictorConfig { width: 4, depth: 1 })
}

/// A state in which no two numbers are equal, with a NaN that carries a payload, an infinity, a subnormal and a negative zero.
fn state(model: &Jepa) -> State {
    let mut state = model.init(7, INIT_STD);
    state.step = 11;
    let mut next = 1.0;
    let mut different = |blob: &mut Buf, model: &Jepa| {
        for entry in model.layout.entries.iter().filter(|entry| entry.learnt()) {
            if entry.slot.range().end > blob.as_slice().len() {
                continue;
            }
            for value in &mut blob.as_mut_slice()[entry.slot.range()] {
                *value = next;
                next += 1.0 / 64.0;
            }
            let special = [0x7fc0_1234, 0xff80_0000, 1, 0x8000_0000].map(f32::from_bits);
            blob.as_mut_slice()[entry.slot.range()][..4].copy_from_slice(&special);
        }
    };
    for blob in [&mut state.params, &mut state.target, &mut state.exp_avg, &mut state.exp_avg_sq] {
        different(blob, model);
    }
    state
}

fn bits(blob: &Buf) -> Vec<u32> {
    blob.as_slice().iter().map(|value| value.to_bits()).collect()
}

fn meta() -> Meta {
    let other =
        [("loss", "0.125"), ("batch_size", "16"), ("world_size", "4"), ("lr", "0.001"), ("scaler.scale", "128")];
    Meta {
        epoch: Some(3),
        other: other.map(|(key, text)| (key.to_string(), text.to_string())).into(),
        ..Meta::default()
    }
}

#[test]
fn a_whole_training_is_read_from_the_references_file_bit_for_bit() {
    let (model, folder) = (model(), tempfile::tempdir().expect("a scratch folder"));
    let (path, state) = (folder.path().join("latest.pth.tar"), state(&model));
    write_reference(&path, &model, &state, &meta()).expect("written");

    let mut file = Reader::open(&path).expect("honest");
    assert_eq!(file.notes(), Vec::<String>::new());
    let sizes = encoder_sizes(&file, "encoder.", Hints { heads: Some(2), image: Some((4, 6)) }, Hints::default())
        .expect("an encoder");
    assert_eq!((sizes, predictor_sizes(&file)), (SIZES, Some(PredictorConfig { width: 4, depth: 1 })));
    let read = model.restore(&mut file).expect("fits");
    assert_eq!(read.step, 11);
    for (name, read, written) in [
        ("params", &read.params, &state.params),
        ("target", &read.target, &state.target),
        ("exp_avg", &read.exp_avg, &state.exp_avg),
        ("exp_avg_sq", &read.exp_avg_sq, &state.exp_avg_sq),
    ] {
        assert!(bits(read) == bits(written), "{name}");
    }
    assert_eq!((file.meta().source, file.meta().epoch), (Source::Reference, Some(3)));
    for (key, text) in meta().other {
        assert_eq!(file.meta().other[&key], text, "{key}");
    }
}

#[test]
fn a_training_that_has_not_stepped_has_no_moments_there() {
    let (model, folder) = (model(), tempfile::tempdir().expect("a scratch folder"));
    let path = folder.path().join("init.pth.tar");
    let state = model.init(7, INIT_STD);
    write_reference(&path, &model, &state, &Meta::default()).expect("written");
    let read = checkpoint::read(&path).expect("honest");
    assert_eq!((read.moments, read.meta.epoch), (None, Some(0)));
    let read = model.restore(&mut Reader::open(&path).expect("honest")).expect("fits");
    assert!(read.step == 0 && bits(&read.params) == bits(&state.params));
}

/// Writes the encoder with `write`, and holds what is read under the prefix of `read_as` against it.
fn comes_back(network: Network, read_as: Network, write: impl FnOnce(&std::path::Path, Encoder)) -> Meta {
    let (model, (layout, vit)) = (model(), encoder(SIZES));
    let params = state(&model).target;
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("exported");
    write(&path, Encoder { layout: &layout, vit: &vit, params: &params });
    let mut file = Reader::open(&path).expect("honest");
    let prefix = read_as.prefix();
    let read = restore_encoder((&layout, &vit), &mut file, prefix, SIZES.grid()).expect("fits");
    assert!(bits(&read) == bits(&params), "{network:?}");
    assert_eq!(file.shapes().count(), layout.entries.len(), "nothing else is there");
    assert_eq!(file.notes(), Vec::<String>::new());
    file.meta().clone()
}

const BOTH: [Network; 2] = [Network::Target, Network::Context];

/// What files say that have room to say it.
fn says_all(meta: &Meta, network: Network) {
    assert_eq!((meta.network, meta.heads, meta.image), (Some(network), Some(2), Some((4, 6))));
}

#[test]
fn a_lone_encoder_is_read_from_the_references_file_bit_for_bit() {
    for network in BOTH {
        let read = comes_back(network, network, |path, encoder| {
            write_torch_encoder(path, encoder, network, &meta()).expect("written");
        });
        assert_eq!((read.source, read.epoch), (Source::Reference, Some(3)));
    }
}

#[test]
fn a_lone_encoder_is_read_from_a_file_of_ours_bit_for_bit() {
    for network in BOTH {
        let read = comes_back(network, network, |path, encoder| {
            write_encoder(path, encoder, network, &meta()).expect("written");
        });
        says_all(&read, network);
        assert_eq!((read.source, read.epoch, read.lone), (Source::Ours, Some(3), false));
    }
}

#[test]
fn a_lone_encoder_is_read_from_timms_file_bit_for_bit() {
    for network in BOTH {
        let read = comes_back(network, network, |path, encoder| {
            write_timm(path, encoder, network, &meta()).expect("written");
        });
        says_all(&read, network);
        assert_eq!((read.source, read.lone), (Source::Other, true));
    }
}

#[test]
fn a_lone_encoder_is_read_from_the_folder_of_hugging_face_bit_for_bit() {
    for network in BOTH {
        let mean_std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let read = comes_back(network, network, |path, encoder| {
            write_hugging_face(path, encoder, network, &meta(), mean_std).expect("written");
        });
        says_all(&read, network);
        assert_eq!((read.source, read.lone), (Source::Other, true));
        assert_eq!(read.mean_std, Some(mean_std), "to the last bit of an f32");
    }
}

#[test]
fn a_write_into_a_missing_folder_leaves_nothing_behind() {
    let (layout, vit) = encoder(SIZES);
    let params = state(&model()).target;
    let lone = Encoder { layout: &layout, vit: &vit, params: &params };
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("gone/file");
    for error in [
        write_torch_encoder(&path, lone, Network::Target, &meta()).expect_err("no folder"),
        export::write_timm(&path, lone, Network::Target, &meta()).expect_err("no folder"),
    ] {
        assert!(error.to_string().contains("create the folder first"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("the scratch folder").count(), 0);
}

#[test]
fn the_numbers_of_a_torch_file_lie_at_multiples_of_64_bytes_and_uncompressed() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("file.pt");
    let values = [[1.0f32; 3], [2.0; 3], [3.0; 3]];
    let tensors = values.iter().map(|values| Object::Tensor(vec![3], values));
    write_torch(&path, &Object::dict(["a", "b", "c"].into_iter().zip(tensors))).expect("written");
    let mut archive = ZipArchive::new(File::open(&path).expect("the file")).expect("a zip");
    for (record, name) in ["data/0", "data/1", "data/2", "data.pkl", "byteorder", "version"].iter().enumerate() {
        let file = archive.by_name(&format!("archive/{name}")).expect("a record of every torch.save");
        assert_eq!(file.compressed_size(), file.size());
        if record < 3 {
            let at = file.data_start().expect("it has data");
            assert!(at.is_multiple_of(64), "{name} begins at byte {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tensors_and_numbers_are_read_back_from_a_torch_file(
        tensors in prop::collection::btree_map("t[a-zé.]{0,9}", prop::collection::vec(0usize..5, 0..5), 1..6),
        bits in prop::collection::vec(any::<u32>(), 625),
        numbers in prop::collection::btree_map("n[a-z ]{0,4}", any::<i64>(), 0..4),
        float in any::<f64>(),
        text in any::<String>(),
    ) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let mut pairs: Vec<(&str, Object)> = Vec::new();
        for (name, shape) in &tensors {
            pairs.push((name, Object::Tensor(shape.clone(), &values[..shape.iter().product()])));
        }
        pairs.extend(numbers.iter().map(|(name, number)| (name.as_str(), Object::Int(*number))));
        let list = Object::List(vec![Object::None, Object::Bool(true), Object::Tuple(vec![Object::Dict(Vec::new())])]);
        pairs.extend([("float", Object::Float(float)), ("words", Object::Text(text.clone())), ("list", list)]);

        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("file.pt");
        write_torch(&path, &Object::dict(pairs)).expect("written");
        let read = checkpoint::read(&path).expect("honest");
        prop_assert_eq!(read.tensors.len(), tensors.len());
        for (name, shape) in &tensors {
            let tensor = &read.tensors[name];
            prop_assert_eq!(&tensor.shape, shape);
            let same = tensor.values.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{}", name);
        }
        let mut expected: BTreeMap<String, String> =
            numbers.into_iter().map(|(name, number)| (name, number.to_string())).collect();
        expected.extend([("float".to_string(), float.to_string()), ("words".to_string(), text)]);
        prop_assert_eq!(read.meta.other, expected);
    }
}
