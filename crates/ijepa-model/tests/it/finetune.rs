//! Fine-tuning against PyTorch on a tiny classifier (`peers/eval/finetune.py`): rates, losses, every gradient tensor, and every
//! tensor and its moving average after ten steps.
//!
//! Tolerances as in `reference_tiny`: both sides compute in f32 with sums in another order. A loss is good to 1e-5 relative at first
//! and to 1e-4 after a few steps, a gradient norm to 2e-5; AdamW's first steps divide a gradient by its own size, so weights agree to 1e-4
//! of a tensor's norm.

use ijepa_model::classifier::{Batch, DropPath, Rates, State};
use ijepa_model::schedule::Schedule;
use ijepa_model::{Classifier, VitConfig};
use ijepa_tensor::{Buf, Pool, View};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../goldens/finetune").join(name);
    std::fs::read(path).expect("the golden file reads")
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tensor.dtype(), Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    let error = (got - expected).abs() / expected.abs().max(1e-12);
    assert!(error <= tolerance, "{what}: got {got}, expected {expected}, relative error {error:e} over {tolerance:e}");
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

fn check(model: &Classifier, blob: &Buf, expected: &Value) {
    let tensors = expected.as_object().expect("a table");
    assert_eq!(tensors.len(), model.layout.entries.len());
    for entry in &model.layout.entries {
        let (name, expected) = (&entry.name, &tensors[&entry.name]);
        let values = &blob.as_slice()[entry.slot.range()];
        let expected_norm = number(&expected["norm"]);
        close(&format!("norm of {name}"), norm(values), expected_norm, 1e-4);
        let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
        let spread = expected_norm * (values.len() as f64).sqrt();
        assert!((sum - number(&expected["sum"])).abs() <= 1e-4 * spread, "sum of {name}: {sum}, {expected}");
        for (got, first) in values.iter().zip(expected["first"].as_array().expect("a list")) {
            let error = (f64::from(*got) - number(first)).abs();
            assert!(error < 2e-4, "first values of {name}: {got} against {first}");
        }
    }
}

#[test]
fn ten_steps_follow_pytorch() {
    let expected: Value = serde_json::from_slice(&golden("expected.json")).expect("JSON");
    let bytes = golden("case.safetensors");
    let case = SafeTensors::deserialize(&bytes).expect("it parses");
    let of = |key: &str| number(&expected["config"][key]);
    let size = |key: &str| of(key) as usize;
    let config = VitConfig {
        image: (size("image"), size("image")),
        patch: size("patch"),
        channels: 3,
        width: size("width"),
        depth: size("depth"),
        heads: size("heads"),
        hidden: size("hidden"),
    };
    let model = Classifier::new(config, size("classes"));
    let mut params = Buf::zeros(model.layout.len);
    for entry in &model.layout.entries {
        params.as_mut_slice()[entry.slot.range()].copy_from_slice(&floats(&case, &entry.name));
    }
    let mut state: State = model.begin_with(params, true);
    let schedule = Schedule {
        warmup_steps: size("warmup_steps") as u64,
        cosine_steps: size("steps") as u64,
        ema_steps: 1.0,
        start_lr: 0.0,
        lr: of("lr"),
        final_lr: of("final_lr"),
        weight_decay: of("weight_decay"),
        final_weight_decay: of("weight_decay"),
        ema: (of("ema"), of("ema")),
    };
    let pool = Pool::new();
    let mut grads = Buf::zeros(model.layout.len);
    for (i, step) in expected["steps"].as_array().expect("a list").iter().enumerate() {
        close("lr", schedule.lr(i as u64), number(&step["lr"]), 1e-12);
        let images = floats(&case, &format!("step{i}.images"));
        let mut targets = floats(&case, &format!("step{i}.targets"));
        let weight = model.classes as f32 / targets.len() as f32;
        targets.iter_mut().for_each(|target| *target *= weight);
        grads.as_mut_slice().fill(0.0);
        let batch = Batch { images: View::Cpu(&images), targets: &targets };
        let drop_path = DropPath { rate: 0.0, seed: 0, step: i as u64, first: 0 };
        // Three images at a time, of four: gradients add up.
        let loss = model.loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, drop_path, 3);
        close(&format!("loss of step {i}"), loss, number(&step["loss"]), if i < 3 { 1e-5 } else { 1e-4 });
        if i == 0 {
            let norms = step["grad_norms"].as_object().expect("a table");
            assert_eq!(norms.len(), model.layout.entries.iter().filter(|entry| entry.learnt()).count());
            for entry in model.layout.entries.iter().filter(|entry| entry.learnt()) {
                let ours = norm(&grads.as_slice()[entry.slot.range()]);
                close(&format!("gradient of {}", entry.name), ours, number(&norms[&entry.name]), 2e-5);
            }
        }
        let rates = Rates {
            learning_rate: schedule.lr(i as u64),
            weight_decay: schedule.weight_decay(i as u64),
            layer_decay: of("layer_decay"),
            momentum: schedule.momentum(i as u64),
        };
        model.step(&mut state, &grads, rates);
    }
    check(&model, &state.params, &expected["final"]);
    check(&model, &state.average, &expected["average"]);
}
