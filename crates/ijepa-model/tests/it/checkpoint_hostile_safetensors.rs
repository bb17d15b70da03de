//! Safetensors files that lie. Each test tells one lie and asks for the error that names it.

use ijepa_model::checkpoint;
use serde_json::json;

use crate::checkpoint_hostile::malformed;
use crate::checkpoint_pickle::{scratch, six};

pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn one(dtype: &str, shape: serde_json::Value, offsets: serde_json::Value) -> Vec<u8> {
    let header = json!({"weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
    safetensors(&header.to_string(), &six())
}

#[test]
fn the_honest_safetensors_file_that_the_lies_start_from_is_read() {
    let file = scratch(&one("F32", json!([2, 3]), json!([0, 24])));
    assert_eq!(checkpoint::read(&file.path).expect("honest").tensors["weight"].values[5], 5.0);
}

#[test]
fn a_header_longer_than_the_file_or_the_format_allows_is_refused() {
    for length in [1000u64, 100_000_001, u64::MAX] {
        let mut bytes = one("F32", json!([2, 3]), json!([0, 24]));
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        malformed(&bytes, &["header length", &length.to_string()]);
    }
}

#[test]
fn headers_that_are_not_the_right_json_are_refused() {
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    for header in
        ["{", "{}x", "{\"a\": 1}", "{\"a\": {}}", "{\"__metadata__\": []}", "{\"__metadata__\": {\"step\": 3}}", &deep]
    {
        malformed(&safetensors(header, b""), &["header"]);
    }
    malformed(&[&3u64.to_le_bytes()[..], b"{\"\xff"].concat(), &["header"]);
}

#[test]
fn offsets_that_overlap_leave_gaps_or_leave_the_file_are_refused() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let tensor = |offsets: [u64; 2]| json!({"dtype": "F32", "shape": [3], "data_offsets": offsets});
        safetensors(&json!({"a": tensor(a), "b": tensor(b)}).to_string(), &six())
    };
    assert!(checkpoint::read(&scratch(&two([0, 12], [12, 24])).path).is_ok());
    malformed(&two([0, 12], [0, 12]), &["without gap or overlap"]);
    malformed(&two([0, 12], [8, 20]), &["without gap or overlap"]);
    malformed(&two([4, 16], [12, 24]), &["without gap or overlap"]);
    malformed(&one("F32", json!([2, 3]), json!([0, 28])), &["within the 24 bytes"]);
    malformed(&one("F32", json!([2, 3]), json!([24, 0])), &["within the 24 bytes"]);
    malformed(&one("F32", json!([2, 3]), json!([-24, 0])), &["within the 24 bytes"]);
    malformed(&one("F32", json!([5]), json!([0, 20])), &["end of the file"]);
}

#[test]
fn shapes_that_contradict_the_bytes_are_refused() {
    malformed(&one("F32", json!([7]), json!([0, 24])), &["weight", "28 bytes"]);
    malformed(&one("F16", json!([2, 3]), json!([0, 24])), &["weight", "12 bytes"]);
    malformed(&one("F4", json!([3]), json!([0, 24])), &["weight", "2 bytes"]);
    for shape in [json!([-1]), json!([u64::MAX, u64::MAX]), json!([1u64 << 60]), json!(6), json!(["6"])] {
        malformed(&one("F32", shape, json!([0, 24])), &["weight", "shape"]);
    }
}

#[test]
fn an_unknown_element_type_is_named() {
    malformed(&one("F33", json!([2, 3]), json!([0, 24])), &["weight\", dtype", "F33"]);
}

#[test]
fn a_safetensors_file_with_any_byte_of_its_header_changed_never_panics() {
    let whole = one("F32", json!([2, 3]), json!([0, 24]));
    let file = scratch(&whole);
    for at in 0..whole.len() - 24 {
        for flip in [0x01, 0x02, 0x10, 0x40, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            std::fs::write(&file.path, &changed).expect("a scratch file");
            let _ = checkpoint::read(&file.path);
        }
    }
}

#[test]
fn our_files_with_moments_that_do_not_fit_are_refused() {
    let tensor = |begin: u64| json!({"dtype": "F32", "shape": [2], "data_offsets": [begin, begin + 8]});
    let file = |step: Option<&str>, names: &[&str]| {
        let mut header = json!({"__metadata__": {"ijepa.version": "0.1.0"}});
        if let Some(step) = step {
            header["__metadata__"]["optimizer.step"] = json!(step);
        }
        for (i, name) in names.iter().enumerate() {
            header[*name] = tensor(8 * i as u64);
        }
        safetensors(&header.to_string(), &vec![0; 8 * names.len()])
    };
    let names = ["encoder.w", "optimizer.exp_avg.encoder.w", "optimizer.exp_avg_sq.encoder.w"];
    assert!(checkpoint::read(&scratch(&file(Some("3"), &names)).path).is_ok());
    malformed(&file(None, &names), &["optimizer.step"]);
    malformed(&file(Some("-3"), &names), &["optimizer.step", "natural number"]);
    malformed(&file(Some("3"), &names[..2]), &["optimizer.exp_avg_sq.encoder.w"]);
    malformed(&file(Some("3"), &names[1..]), &["a tensor encoder.w"]);
}
