//! Step for step what PyTorch computes: `peers/eval/heads.py` wrote the numbers, `goldens/README.md` says what they are.

use super::config;
use ijepa_eval::Features;
use ijepa_eval::heads::{Decay, Head, HeadConfig, Optimiser, Schedule, Sweep, Trainer};
use safetensors::SafeTensors;

const BATCH: usize = 16;
const STEPS: usize = 30;
/// Steps after which parameters were kept; the first entry of a list is the start.
const KEPT: [usize; 6] = [1, 2, 5, 10, 20, 30];
/// Largest difference of a parameter, relative to the largest of its list. Both sides are in single precision and add in another
/// order; thirty steps keep the difference near its rounding.
const WEIGHTS: f64 = 1e-5;
const LOSSES: f64 = 2e-6;

fn heads(times: f64) -> Vec<HeadConfig> {
    vec![
        config(0, true, 1.6 * times, 5e-4),
        config(0, false, 1.6 * times, 5e-4),
        config(0, true, 0.4 * times, 0.0),
        config(0, false, 0.4 * times, 0.05),
        config(1, true, 1.6 * times, 0.01),
        config(1, false, 0.8 * times, 0.01),
    ]
}

fn sweep(optimiser: Optimiser, schedule: Schedule, times: f64) -> Sweep {
    Sweep { heads: heads(times), optimiser, schedule, epochs: 10, batch: BATCH, seed: 0 }
}

fn cases() -> [(&'static str, Sweep); 4] {
    let sgd = |nesterov, decay_norm| Optimiser::Sgd { nesterov, decay_norm };
    let warm = Schedule { warmup: 2.0, decay: Decay::Cosine { end: 0.0 } };
    [
        ("nesterov", sweep(sgd(true, true), Schedule::multistep(&[4, 8]), 1.0)),
        ("plain", sweep(sgd(false, true), Schedule::cosine(0.01), 1.0)),
        ("vissl", sweep(sgd(true, false), warm, 1.0)),
        ("lars", sweep(Optimiser::Lars { trust: 0.02 }, Schedule::multistep(&[4, 8]), 10.0)),
    ]
}

fn numbers(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data();
    data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The parameters of a head after the kept step of this number, 0 for the start.
fn head(file: &SafeTensors<'_>, name: &str, norm: bool, kept: usize) -> Head {
    let list = |part: &str| {
        let all = numbers(file, &format!("{name}.{part}"));
        let len = all.len() / (KEPT.len() + 1);
        all[kept * len..(kept + 1) * len].to_vec()
    };
    let affine = |part| if norm { list(part) } else { vec![] };
    Head { weights: list("weights"), bias: list("bias"), scale: affine("scale"), shift: affine("shift") }
}

#[track_caller]
fn close(got: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |top, &value| top.max(f64::from(value.abs())));
    for (got, expected) in got.iter().zip(expected) {
        let off = (f64::from(*got) - f64::from(*expected)).abs();
        assert!(off <= tolerance * largest, "{what}: {got} {expected}, largest {largest}");
    }
}

#[test]
fn losses_and_weights_are_those_of_pytorch_after_every_step() {
    let bytes = std::fs::read("../../goldens/heads/cases.safetensors").expect("the goldens");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let labels: Vec<u32> = numbers(&file, "labels").iter().map(|bits| bits.to_bits()).collect();
    let sets = ["features.0", "features.1"].map(|name| numbers(&file, name));
    let widths = sets.each_ref().map(|values| values.len() / labels.len());
    for (case, sweep) in cases() {
        let mut trainer = Trainer::new(&sweep, &widths, 5, labels.len() / BATCH).expect("valid");
        for (at, config) in sweep.heads.iter().enumerate() {
            trainer.set_head(at, head(&file, &format!("{case}.{at}"), config.norm, 0));
        }
        let losses = numbers(&file, &format!("{case}.losses"));
        for (step, expected) in losses.chunks(sweep.heads.len()).enumerate() {
            let first = step % (labels.len() / BATCH) * BATCH;
            let batch = [0, 1].map(|set| &sets[set][first * widths[set]..(first + BATCH) * widths[set]]);
            let found = trainer.step(&batch, &labels[first..first + BATCH], step).expect("valid");
            let found: Vec<f32> = found.iter().map(|&loss| loss as f32).collect();
            close(&found, expected, LOSSES, &format!("{case}, losses of step {step}"));
            let Some(kept) = KEPT.iter().position(|&kept| kept == step + 1) else { continue };
            for (at, config) in sweep.heads.iter().enumerate() {
                let expected = head(&file, &format!("{case}.{at}"), config.norm, kept + 1);
                let own = trainer.head(at);
                let what = format!("{case}, head {at} after {} steps", step + 1);
                close(&own.weights, &expected.weights, WEIGHTS, &what);
                close(&own.bias, &expected.bias, WEIGHTS, &what);
                close(&own.scale, &expected.scale, WEIGHTS, &what);
                close(&own.shift, &expected.shift, WEIGHTS, &what);
            }
        }
        assert_eq!(losses.len(), STEPS * sweep.heads.len());
        for (set, width) in widths.iter().enumerate() {
            let expected = numbers(&file, &format!("running.{set}"));
            let (mean, variance) = trainer.running(set).expect("heads with BatchNorm");
            close(mean, &expected[..*width], 1e-6, "running mean");
            close(variance, &expected[*width..], 1e-6, "running variance");
        }
        for (at, config) in sweep.heads.iter().enumerate() {
            let (width, values) = (widths[config.set], sets[config.set].clone());
            let features = Features { rows: labels.len(), width, values: values.into(), labels: vec![] };
            let scores = trainer.model(at).scores(&features).expect("valid");
            let expected = numbers(&file, &format!("{case}.{at}.scores"));
            close(&scores, &expected, 2e-5, &format!("{case}, scores of head {at}"));
        }
    }
}
