//! `view masks`: numbers and picture.

use serde_json::Value;

use super::{ijepa, scratch};

fn sum(rows: &Value) -> f64 {
    rows.as_array()
        .expect("rows")
        .iter()
        .flat_map(|row| row.as_array().expect("a row"))
        .map(|cell| cell.as_f64().expect("a number"))
        .sum()
}

#[test]
fn the_json_has_its_keys_and_the_maps_add_up_to_the_means() {
    let dir = scratch();
    let arguments = ["view", "masks", "--set", "mask.patch_size=16", "--batch", "16", "--batches", "20", "--json"];
    let shown = ijepa(dir.path(), &arguments).json();
    let keys: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["batch", "context_keep", "context_mean", "grid", "target_keep", "target_mean"]);
    assert_eq!((&shown["grid"], &shown["batch"]), (&serde_json::json!([14, 14]), &16.into()));
    for (mean, keep) in [("context_mean", "context_keep"), ("target_mean", "target_keep")] {
        let rows = shown[keep].as_array().expect("rows");
        assert!(rows.len() == 14 && rows.iter().all(|row| row.as_array().is_some_and(|row| row.len() == 14)), "{keep}");
        let mean = shown[mean].as_f64().expect("a number");
        assert!((sum(&shown[keep]) - mean).abs() < 1e-6 * mean, "{keep} adds up to {}, not {mean}", sum(&shown[keep]));
    }
    // With --json and no --out, nothing is written.
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 1);
}

#[test]
fn a_seed_gives_the_same_masks_and_another_seed_others() {
    let dir = scratch();
    let shown = |seed: &str| {
        ijepa(dir.path(), &["view", "masks", "small.yaml", "--batches", "3", "--json", "--seed", seed]).json()
    };
    assert_eq!(shown("1"), shown("1"));
    assert_ne!(shown("1"), shown("2"));
}

#[test]
fn the_picture_is_a_png_with_and_without_images() {
    let dir = scratch();
    for data in [&["--data", "scenes:8"][..], &[]] {
        let arguments = [&["view", "masks", "small.yaml", "--batches", "2", "--out", "a.png"], data].concat();
        let said = ijepa(dir.path(), &arguments);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.stdout.contains("grid 8×8") && said.stdout.contains("wrote a.png"), "{}", said.stdout);
        let picture = image::open(dir.path().join("a.png")).expect("it is a picture");
        // Six tiles of six times 32 pixels and the gaps between them.
        assert_eq!(picture.width(), 6 * (192 + 8) + 8);
    }
}
