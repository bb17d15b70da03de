//! Checkpoints of other libraries mean here what they mean there (`goldens/interop`), and what is exported here reads back the same.

use ijepa_model::checkpoint::{Meta, Network, Reader, Source};
use ijepa_model::export::{self, Encoder};
use ijepa_model::saved::{self, Hints};
use ijepa_model::vit::{Patches, all_patches};
use ijepa_model::{Jepa, PredictorConfig, State, VitConfig};
use ijepa_tensor::{Buf, Pool, Tape, View};
use std::path::{Path, PathBuf};

/// Largest difference of a token: two f32 implementations differ by the order of their sums.
const TOKENS: f32 = 2e-5;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../goldens/interop").join(name)
}

/// Tokens of an encoder in a file, for the golden images called `images`, of that height and width.
fn tokens(path: &Path, images: &str, size: (usize, usize)) -> Vec<f32> {
    let mut file = Reader::open(path).expect("it is a checkpoint");
    let prefix = file.meta().network.unwrap_or(Network::Context).prefix();
    // timm's file does not say how many heads there are.
    let native = saved::encoder_sizes(&file, prefix, Hints { heads: Some(4), image: None }, Hints::default())
        .expect("an encoder");
    let (layout, vit) = saved::encoder(VitConfig { image: size, ..native });
    let params = saved::restore_encoder((&layout, &vit), &mut file, prefix, native.grid()).expect("its weights");
    let images = Reader::open(&golden("case.safetensors")).expect("the case").read(images).expect("its images");
    let (pool, index) = (Pool::new(), all_patches(2, vit.config.patches()));
    let mut tape = Tape::inference(&pool, params.view());
    let patches = Patches { images: View::Cpu(&images.values), batch: 2, index: &index, kept: vit.config.patches() };
    vit.forward(&mut tape, patches).as_slice().to_vec()
}

fn assert_close(got: &[f32], expected: &str) {
    let expected = Reader::open(&golden("case.safetensors")).expect("the case").read(expected).expect("its tokens");
    assert_eq!(got.len(), expected.values.len());
    let difference = got.iter().zip(&expected.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= TOKENS, "{difference}");
}

#[test]
fn a_folder_of_transformers_gives_the_tokens_of_transformers() {
    let file = Reader::open(&golden("transformers")).expect("a folder");
    assert_eq!((file.meta().heads, file.meta().image, file.meta().network), (Some(4), Some((32, 32)), None));
    assert!(file.meta().lone);
    assert_eq!(file.meta().mean_std, Some(([0.5; 3], [0.5; 3])));
    assert_close(&tokens(&golden("transformers"), "images", (32, 32)), "tokens");
}

#[test]
fn positions_are_interpolated_as_transformers_interpolates_them() {
    assert_close(&tokens(&golden("transformers"), "oblong.images", (40, 56)), "oblong.tokens");
}

#[test]
fn a_state_dictionary_of_timm_gives_the_same_tokens_and_its_head_is_left_out() {
    let file = Reader::open(&golden("timm.pth")).expect("a state dictionary");
    assert!(file.notes().iter().any(|note| note.contains("head.weight")), "{:?}", file.notes());
    assert_close(&tokens(&golden("timm.pth"), "images", (32, 32)), "tokens");
}

fn small() -> (Jepa, State) {
    let encoder = VitConfig { image: (16, 24), patch: 4, channels: 3, width: 24, depth: 2, heads: 3, hidden: 48 };
    let model = Jepa::new(encoder, PredictorConfig { width: 12, depth: 1 });
    let mut state = model.init(1, 0.5);
    // Only entries have values; between them lie zeros that no file holds.
    let scaled = |len: usize, by: f32, fixed: bool| {
        let mut blob = Buf::zeros(len);
        for entry in model.layout.entries.iter().filter(|e| e.slot.range().end <= len && (fixed || e.learnt())) {
            let (from, to) =
                (&state.params.as_slice()[entry.slot.range()], &mut blob.as_mut_slice()[entry.slot.range()]);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * by + by);
        }
        blob
    };
    let (target, len) = (scaled(model.encoder_len, 0.75, true), model.layout.len);
    let moment = |by| scaled(len, by, false);
    let (exp_avg, exp_avg_sq) = (moment(0.5), moment(0.25));
    state = State { target, exp_avg, exp_avg_sq, step: 7, ..state };
    (model, state)
}

fn same(a: &Buf, b: &Buf) -> bool {
    a.as_slice().iter().map(|x| x.to_bits()).eq(b.as_slice().iter().map(|x| x.to_bits()))
}

#[test]
fn a_state_written_as_the_reference_writes_it_reads_back_bit_for_bit() {
    let (model, state) = small();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("jepa-latest.pth.tar");
    let meta = Meta { epoch: Some(3), other: [("lr".to_owned(), "0.5".to_owned())].into(), ..Meta::default() };
    export::write_reference(&path, &model, &state, &meta).expect("written");
    let mut file = Reader::open(&path).expect("read");
    assert_eq!((file.meta().source, file.meta().epoch), (Source::Reference, Some(3)));
    assert_eq!(file.meta().other["lr"], "0.5");
    let back = model.restore(&mut file).expect("it fits");
    assert_eq!(back.step, 7);
    for (a, b) in [
        (&back.params, &state.params),
        (&back.target, &state.target),
        (&back.exp_avg, &state.exp_avg),
        (&back.exp_avg_sq, &state.exp_avg_sq),
    ] {
        assert!(same(a, b));
    }
}

#[test]
fn an_encoder_goes_through_every_format_without_losing_a_bit_its_name_or_its_size() {
    let (model, state) = small();
    let (layout, vit) = saved::encoder(model.encoder.config);
    let lone = Encoder { layout: &layout, vit: &vit, params: &state.target };
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = |name: &str| folder.path().join(name);
    let (meta, mean_std) = (Meta::default(), ([0.4; 3], [0.2; 3]));
    for network in [Network::Target, Network::Context] {
        export::write_encoder(&path("ours"), lone, network, &meta).expect("written");
        export::write_timm(&path("timm"), lone, network, &meta).expect("written");
        export::write_hugging_face(&path("hf"), lone, network, &meta, mean_std).expect("written");
        export::write_torch_encoder(&path("pth"), lone, network, &meta).expect("written");
        for name in ["ours", "timm", "hf", "pth"] {
            let mut file = Reader::open(&path(name)).expect(name);
            if file.meta().lone {
                assert_eq!(file.meta().network, Some(network), "{name}");
            }
            let sizes = saved::encoder_sizes(&file, network.prefix(), Hints::default(), Hints::default()).expect(name);
            assert_eq!(sizes, model.encoder.config, "{name}");
            let params =
                saved::restore_encoder((&layout, &vit), &mut file, network.prefix(), sizes.grid()).expect(name);
            assert!(same(&params, &state.target), "{name}");
        }
    }
}
