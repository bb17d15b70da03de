//! `plan`: what it says, what it refuses, and whether its memory is what a run takes.

use serde_json::Value;

use super::{Said, ijepa, scratch};

const USAGE: i32 = 2;

/// Large enough for activations to outweigh the program, small enough to run in seconds; all masks have the same lengths.
const MIDDLING: [&str; 9] = [
    "meta.model_name=vit_tiny",
    "data.batch_size=12",
    "mask.patch_size=16",
    "meta.pred_emb_dim=192",
    "meta.pred_depth=6",
    "mask.enc_mask_scale=[0.5, 0.5]",
    "mask.pred_mask_scale=[0.15, 0.15]",
    "mask.aspect_ratio=[1.0, 1.0]",
    "mask.allow_overlap=true",
];

fn plan(arguments: &[&str]) -> Said {
    let dir = scratch();
    ijepa(dir.path(), &[&["plan"], arguments].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn a_card_that_is_not_known_is_refused_with_those_that_are() {
    for typed in ["16xH10", "H300", "16H100", "0xH200"] {
        plan(&["--gpus", typed]).refused(USAGE, &["--gpus", "A100-40, A100-80, H100, H200, B200"]);
    }
    plan(&["--gpus", "8xA100"]).refused(USAGE, &["A100-40 or A100-80"]);
    plan(&["--gpus", "H100", "--share", "1.5"]).refused(USAGE, &["--share", "at most 1"]);
    plan(&["--gpus", "H100", "--images", "9"]).refused(USAGE, &["9 images", "data.batch_size is 128"]);
}

#[test]
fn cards_are_a_prediction_and_the_plan_says_so() {
    let said = plan(&["--gpus", "16xH100"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    for part in ["not measured", "2 nodes", "assumed", "1281167 images", "no data is named", "40 % of that peak"] {
        assert!(said.stdout.contains(part), "{part:?} is not in:\n{}", said.stdout);
    }
    let shown = plan(&["--gpus", "16xH100", "--json"]).json();
    assert_eq!(shown["predicted_from_published_figures"], true);
    assert_eq!((&shown["devices"], &shown["global_batch"]), (&16.into(), &2048.into()));
}

#[test]
fn images_are_counted_where_the_data_is_and_assumed_where_it_is_not() {
    let images = |arguments: &[&str]| plan(&[&["small.yaml", "--gpus", "H100", "--json"], arguments].concat()).json();
    assert_eq!(images(&["--data", "scenes:80"])["steps_per_epoch"], 10);
    assert_eq!(images(&["--images", "800"])["steps_per_epoch"], 100);
    assert_eq!(images(&["--set", "data.path=scenes:160"])["images"], 160);
    let elsewhere = images(&["--set", "data.path=nowhere"]);
    assert_eq!(elsewhere["images"], 1_281_167);
    assert!(elsewhere["images_from"].as_str().is_some_and(|from| from.contains("nowhere") && from.contains("assumed")));
    plan(&["small.yaml", "--gpus", "H100", "--data", "nowhere"]).refused(3, &["nowhere"]);
}

/// Of a run of the same sizes by `bench step`, which takes no images from a loader.
#[test]
fn memory_on_this_machine_is_within_15_per_cent_of_what_steps_take_with_and_without_recomputing() {
    for recompute in ["none", "blocks"] {
        let set = format!("meta.recompute={recompute}");
        let sets: Vec<&str> = MIDDLING.iter().chain([&set.as_str()]).flat_map(|set| ["--set", set]).collect();
        let dir = scratch();
        let run = ijepa(dir.path(), &[&["bench", "step", "--steps", "2", "--json"], sets.as_slice()].concat()).json();
        // Absent where the system does not say.
        let Some(measured) = run["peak_bytes"].as_f64() else { return };
        let shown = plan(&[sets.as_slice(), &["--json"]].concat()).json();
        // A run has a loader beside, five more batches on their way.
        let planned = number(&run["planned_bytes"]);
        assert!((planned..1.3 * planned).contains(&number(&shown["memory_total_bytes"])), "{shown}");
        let ratio = planned / measured;
        assert!((0.85..1.15).contains(&ratio), "{recompute}: {planned} planned, {measured} measured: {ratio:.2}");
    }
}

#[test]
fn training_that_recomputes_gives_the_same_losses() {
    let dir = scratch();
    let losses = |recompute: &str| {
        let (set, out) = (format!("meta.recompute={recompute}"), format!("run-{recompute}"));
        let arguments = ["pretrain", "small.yaml", "--data", "scenes:24", "--out", &out, "--set", &set];
        let said = ijepa(dir.path(), &arguments);
        assert_eq!(said.code, Some(0), "{said:?}");
        let metrics = std::fs::read_to_string(dir.path().join(out).join("metrics.jsonl")).expect("it is written");
        let rows = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON"));
        rows.map(|row| (row["loss"].clone(), row["grad_norm"].clone())).collect::<Vec<_>>()
    };
    let kept = losses("none");
    assert_eq!(kept.len(), 6);
    assert_eq!(kept, losses("blocks"));
}
