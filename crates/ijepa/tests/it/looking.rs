//! `inspect` and `doctor`.

use std::path::Path;

use super::ijepa;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/reference_tiny/init.pth.tar");

#[test]
fn inspect_lists_a_checkpoint_of_the_reference() {
    let shown = ijepa(Path::new("."), &["inspect", REFERENCE, "--json"]).json();
    assert_eq!(shown["source"], "the reference");
    assert_eq!(shown["epoch"], 0);
    let parts: Vec<_> = shown["parts"].as_array().expect("a list").iter().map(|part| part["name"].clone()).collect();
    assert_eq!(parts, ["encoder", "predictor", "target_encoder"]);
    let tensors = shown["tensors"].as_array().expect("a list");
    let qkv = tensors.iter().find(|tensor| tensor["name"] == "encoder.blocks.1.attn.qkv.weight").expect("it is there");
    assert_eq!((&qkv["dtype"], &qkv["shape"]), (&"F32".into(), &serde_json::json!([576, 192])));
    assert_eq!(tensors.len(), 90);
}

#[test]
fn inspect_prints_a_line_a_tensor_for_people() {
    let said = ijepa(Path::new("."), &["inspect", REFERENCE]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    assert!(said.stdout.contains("written by the reference"), "{}", said.stdout);
    let line =
        said.stdout.lines().find(|line| line.starts_with("predictor.mask_token")).expect("the mask token is listed");
    assert!(line.ends_with("(1, 1, 96)"), "{line}");
}

#[test]
fn doctor_finds_cores_and_memory_and_says_what_it_computes_on() {
    let found = ijepa(Path::new("."), &["doctor", "--json"]).json();
    assert!(found["cores"].as_u64().is_some_and(|cores| cores > 0), "{found}");
    assert_eq!(found["device"], "cpu");
    assert!(found["advice"].is_array(), "{found}");
    let said = ijepa(Path::new("."), &["doctor"]);
    assert!(said.stdout.contains("the CPU, unless --device says otherwise"), "{}", said.stdout);
}

#[test]
fn threads_are_as_many_as_asked_for() {
    assert_eq!(ijepa(Path::new("."), &["doctor", "--json", "--threads", "1"]).json()["threads"], 1);
    ijepa(Path::new("."), &["doctor", "--threads", "0"]).refused(2, &["--threads"]);
}
