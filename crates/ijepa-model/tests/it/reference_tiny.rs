//! The whole method against the numbers of the reference implementation on a tiny model: tokens, losses, every
//! gradient tensor, schedules, and every tensor after ten steps.
//!
//! Tolerances: both sides compute in f32 with sums in another order. Tokens are of size 1 to 10, so 2e-5 is a few
//! units in the last place after two blocks. A gradient norm is a root of a sum of squares, good to 2e-5 relative.
//! AdamW's first steps divide a gradient by its own size, which makes a rounding error of a near-zero gradient as large
//! as the learning rate; weights therefore agree to 1e-4 of a tensor's norm, not to the last bit.

use ijepa_data::{IndexSet, Masks};
use ijepa_model::checkpoint::Reader;
use ijepa_model::jepa::Batch;
use ijepa_model::params::INIT_STD;
use ijepa_model::schedule::Schedule;
use ijepa_model::vit::{Patches, all_patches};
use ijepa_model::{Jepa, PredictorConfig, State, VitConfig, optimiser};
use ijepa_tensor::{Buf, Pool, Tape, View};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../goldens/reference_tiny").join(name)
}

fn model() -> Jepa {
    let encoder = VitConfig { image: (32, 32), patch: 4, channels: 3, width: 192, depth: 2, heads: 3, hidden: 768 };
    Jepa::new(encoder, PredictorConfig { width: 96, depth: 2 })
}

fn start(model: &Jepa) -> State {
    let mut file = Reader::open(&golden("init.pth.tar")).expect("the golden checkpoint reads");
    model.restore(&mut file).expect("the golden checkpoint fits")
}

fn floats(file: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).expect("the golden file has it");
    assert_eq!(tensor.dtype(), Dtype::F32);
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (tensor.shape().to_vec(), values)
}

fn index_set(file: &SafeTensors, name: &str) -> IndexSet {
    let tensor = file.tensor(name).expect("the golden file has it");
    let numbers = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
    IndexSet { per_image: tensor.shape()[1], indices: numbers.map(|number| number as u32).collect() }
}

fn expected() -> Value {
    let text = std::fs::read_to_string(golden("expected.json")).expect("the golden numbers read");
    serde_json::from_str(&text).expect("the golden numbers are JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    let error = (got - expected).abs() / expected.abs().max(1e-12);
    assert!(error <= tolerance, "{what}: got {got}, expected {expected}, relative error {error:e} over {tolerance:e}");
}

fn schedule(config: &Value) -> Schedule {
    let steps_per_epoch = 10.0 / number(&config["epochs"]);
    let total = number(&config["ipe_scale"]) * number(&config["epochs"]) * steps_per_epoch;
    Schedule {
        warmup_steps: (number(&config["warmup"]) * steps_per_epoch) as u64,
        cosine_steps: total as u64,
        ema_steps: total,
        start_lr: number(&config["start_lr"]),
        lr: number(&config["lr"]),
        final_lr: number(&config["final_lr"]),
        weight_decay: number(&config["wd"]),
        final_weight_decay: number(&config["final_wd"]),
        ema: (number(&config["ema"][0]), number(&config["ema"][1])),
    }
}

#[test]
fn both_encoders_give_the_reference_tokens() {
    let model = model();
    let state = start(&model);
    let bytes = (std::fs::read(golden("eval_images.safetensors")), std::fs::read(golden("eval_expected.safetensors")));
    let (images, expected) = (bytes.0.expect("reads"), bytes.1.expect("reads"));
    let (images, expected) =
        (SafeTensors::deserialize(&images).expect("parses"), SafeTensors::deserialize(&expected).expect("parses"));
    let (shape, images) = floats(&images, "images");
    let index = all_patches(shape[0], 64);
    for (name, blob) in
        [("context_tokens", state.params.view().range(0..model.encoder_len)), ("target_tokens", state.target.view())]
    {
        let pool = Pool::new();
        let mut tape = Tape::inference(&pool, blob);
        let patches = Patches { images: View::Cpu(&images), batch: shape[0], index: &index, kept: 64 };
        let tokens = model.encoder.forward(&mut tape, patches);
        let (_, expected) = floats(&expected, name);
        let worst = tokens.as_slice().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{name}: largest difference {worst:e}");
    }
}

#[test]
fn positions_are_those_of_the_reference() {
    let model = model();
    let state = start(&model);
    let fresh = model.init(0, INIT_STD);
    for entry in model.layout.entries.iter().filter(|entry| !entry.learnt()) {
        let (ours, theirs) =
            (&fresh.params.as_slice()[entry.slot.range()], &state.params.as_slice()[entry.slot.range()]);
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{}: largest difference {worst:e}", entry.name);
    }
}

#[test]
fn ten_steps_follow_the_reference() {
    ten_steps(&model());
}

#[test]
fn ten_steps_that_recompute_their_blocks_follow_the_reference() {
    ten_steps(&Jepa { recompute: true, ..model() });
}

fn ten_steps(model: &Jepa) {
    let mut state = start(model);
    let expected = expected();
    let schedule = schedule(&expected["config"]);
    let replay = std::fs::read(golden("replay.safetensors")).expect("reads");
    let replay = SafeTensors::deserialize(&replay).expect("parses");
    let pool = Pool::new();
    let mut grads = Buf::zeros(model.layout.len);

    for (i, step) in expected["steps"].as_array().expect("a list").iter().enumerate() {
        close("lr", schedule.lr(i as u64), number(&step["lr"]), 1e-12);
        close("weight decay", schedule.weight_decay(i as u64), number(&step["wd"]), 1e-12);
        close("momentum", schedule.momentum(i as u64), number(&step["ema"]), 1e-12);

        let (shape, images) = floats(&replay, &format!("step{i}.images"));
        let context = vec![index_set(&replay, &format!("step{i}.context0"))];
        let targets = (0..4).map(|j| index_set(&replay, &format!("step{i}.target{j}"))).collect();
        let masks = Masks { batch: shape[0], context, targets };
        let batch = Batch { images: View::Cpu(&images), masks: &masks };
        let wanted = model.targets(&pool, state.target.view(), batch);
        let loss = model
            .loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, &wanted, 1.0, |_, _| {})
            .to_vec()[0];
        close(&format!("loss of step {i}"), f64::from(loss), number(&step["loss"]), if i < 3 { 1e-5 } else { 1e-4 });

        if i == 0 {
            let norms = step["grad_norms"].as_object().expect("a table");
            assert_eq!(norms.len(), model.layout.entries.iter().filter(|entry| entry.learnt()).count());
            for (name, norm) in norms {
                let entry =
                    model.layout.entries.iter().find(|entry| entry.name == *name).expect("a parameter of that name");
                let ours =
                    grads.as_slice()[entry.slot.range()].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                close(&format!("gradient of {name}"), ours, number(norm), 2e-5);
            }
        }
        optimiser::step(model, &mut state, &grads, &schedule);
    }

    let finals = expected["final"].as_object().expect("a table");
    assert_eq!(
        finals.len(),
        model.layout.entries.len() + model.layout.entries.iter().filter(|e| e.name.starts_with("encoder.")).count()
    );
    for (name, numbers) in finals {
        let (blob, ours) = match name.strip_prefix("target_encoder.") {
            Some(rest) => (&state.target, format!("encoder.{rest}")),
            None => (&state.params, name.clone()),
        };
        let entry = model.layout.entries.iter().find(|entry| entry.name == ours).expect("a parameter of that name");
        let values = &blob.as_slice()[entry.slot.range()];
        let norm = number(&numbers["norm"]);
        close(&format!("norm of {name}"), values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt(), norm, 1e-4);
        let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
        let spread = norm * (values.len() as f64).sqrt();
        assert!(
            (sum - number(&numbers["sum"])).abs() <= 1e-4 * spread,
            "sum of {name}: {sum} against {}",
            numbers["sum"]
        );
        for (got, first) in values.iter().zip(numbers["first"].as_array().expect("a list")) {
            let error = (f64::from(*got) - number(first)).abs();
            assert!(error < 2e-4, "first values of {name}: {got} against {first}");
        }
    }
}
