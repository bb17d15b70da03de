//! What do our probes say of features that another program wrote, and how long do they take?
//!
//! ```text
//! probes knn FOLDER WIDTH K                              train.f32, queries.f32 -> nearest.u32 (m, k)
//! probes agree FOLDER WIDTH K TEMPERATURE PENALTY STRENGTH   as peers/eval/sklearn_check.py describes
//! probes heads [ROWS WIDTH CLASSES]                      seconds an epoch of one head, of sixteen, and of sixteen one by one
//! ```
//!
//! Files are raw little-endian numbers; `cargo xtask peers eval` calls this and prints what it says.
#![expect(clippy::print_stdout, reason = "printing is what it does")]

use ijepa_eval::Features;
use ijepa_eval::heads::{HeadConfig, Optimiser, Schedule, Sweep, train};
use ijepa_eval::knn::{Knn, nearest, sweep};
use ijepa_eval::linear::{self, Logistic};
use ijepa_eval::quantity;
use ijepa_eval::ridge::{self, Ridge};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["knn", folder, width, k] => search(Path::new(folder), width.parse()?, k.parse()?),
        ["agree", folder, width, k, temperature, penalty, strength] => {
            let knn = Knn { k: k.parse()?, temperature: temperature.parse()? };
            agree(Path::new(folder), width.parse()?, knn, penalty.parse()?, strength.parse()?)
        }
        ["heads"] => {
            for (rows, width, classes) in [(9_469, 96, 10), (9_469, 384, 10), (50_000, 768, 100)] {
                time_heads(rows, width, classes)?;
            }
            Ok(())
        }
        ["heads", rows, width, classes] => time_heads(rows.parse()?, width.parse()?, classes.parse()?),
        _ => Err("usage: probes knn FOLDER WIDTH K | agree FOLDER WIDTH K TEMPERATURE PENALTY STRENGTH | heads".into()),
    }
}

fn search(folder: &Path, width: usize, k: usize) -> Outcome {
    let (train, queries) = (features(folder, "train", width, vec![])?, features(folder, "queries", width, vec![])?);
    let began = Instant::now();
    let found = nearest(&train, &queries, k)?;
    let seconds = began.elapsed().as_secs_f64();
    let rows: Vec<u32> = found.iter().flatten().map(|neighbour| neighbour.row as u32).collect();
    write(folder, "nearest", &rows)?;
    println!("{{\"seconds\": {seconds}}}");
    Ok(())
}

fn agree(folder: &Path, width: usize, knn: Knn, penalty: f64, strength: f64) -> Outcome {
    let train = features(folder, "train", width, labels(folder, "labels")?)?;
    let queries = features(folder, "queries", width, labels(folder, "query_labels")?)?;
    let plain = Knn { temperature: f32::INFINITY, ..knn };
    let votes = sweep(&train, &queries, &[knn, plain])?;
    write(folder, "knn_weighted", &votes[0])?;
    write(folder, "knn_plain", &votes[1])?;
    let logistic = Logistic { lambdas: vec![penalty], tolerance: 1e-9, ..Logistic::standard(0) };
    write(folder, "logistic", &linear::evaluate(&train, &queries, &logistic)?.predictions)?;
    let msn = linear::evaluate(&train, &queries, &Logistic::msn(strength, train.rows))?;
    write(folder, "msn", &msn.predictions)?;
    let ridge = Ridge { lambdas: vec![penalty], seed: 0 };
    write(folder, "ridge", &ridge::classify(&train, &queries, &ridge)?.predictions)?;
    let (targets, expected) = (floats(&folder.join("targets.f32"))?, floats(&folder.join("query_targets.f32"))?);
    let quality = quantity::evaluate(&train, &targets, &queries, &expected, 1, &ridge)?.outputs[0];
    println!(
        "{{\"r_squared\": {}, \"absolute_error\": {}, \"baseline\": {}, \"msn_iterations\": {}, \"msn_converged\": {}}}",
        quality.r_squared.value,
        quality.absolute_error.value,
        quality.baseline.value,
        msn.fit.iterations,
        msn.fit.converged
    );
    Ok(())
}

/// Medians over rounds, in turn.
fn time_heads(rows: usize, width: usize, classes: usize) -> Outcome {
    const ROUNDS: usize = 5;
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let values = (0..rows * width).map(|_| uniform()).collect();
    let labels = (0..rows).map(|row| (row % classes) as u32).collect();
    let features = Features { rows, width, values, labels };
    let optimiser = Optimiser::Sgd { nesterov: true, decay_norm: false };
    let grid: Vec<HeadConfig> = (0..16)
        .map(|at| HeadConfig { set: 0, norm: at % 2 == 0, rate: 0.01 * f64::from(at + 1), decay: 5e-4 })
        .collect();
    let epochs = (20_000_000 / (rows * width)).clamp(1, 20);
    let seconds = |heads: &[HeadConfig]| -> Result<f64, Box<dyn Error>> {
        let schedule = Schedule::cosine(0.0);
        let sweep = Sweep { heads: heads.to_vec(), optimiser, schedule, epochs, batch: 256, seed: 0 };
        let began = Instant::now();
        train(&[&features], &sweep, |_, _| ())?;
        Ok(began.elapsed().as_secs_f64() / epochs as f64)
    };
    let (mut one, mut plain, mut many, mut apart) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        one.push(seconds(&grid[..1])?);
        plain.push(seconds(&grid[1..2])?);
        many.push(seconds(&grid)?);
        apart.push(grid.iter().map(|head| seconds(std::slice::from_ref(head))).sum::<Result<f64, _>>()?);
    }
    let [one, plain, many, apart] = [one, plain, many, apart].map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    });
    println!(
        "{{\"rows\": {rows}, \"width\": {width}, \"classes\": {classes}, \"norm_s\": {one}, \"plain_s\": {plain}, \"sixteen_s\": {many}, \
         \"one_by_one_s\": {apart}, \"sixteen_to_one\": {}, \"sixteen_to_one_by_one\": {}}}",
        2.0 * many / (one + plain),
        many / apart
    );
    Ok(())
}

fn features(folder: &Path, name: &str, width: usize, labels: Vec<u32>) -> Result<Features, Box<dyn Error>> {
    let values = floats(&folder.join(format!("{name}.f32")))?;
    Ok(Features { rows: values.len() / width, width, values: values.into(), labels })
}

fn floats(path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

fn labels(folder: &Path, name: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    let path = folder.join(format!("{name}.u32"));
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
}

fn write(folder: &Path, name: &str, numbers: &[u32]) -> Outcome {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let path = folder.join(format!("{name}.u32"));
    Ok(std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?)
}
