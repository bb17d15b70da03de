//! Files that lie. Each test tells one lie and asks for the error that names it; none may panic, hang or ask for much memory.

use ijepa_model::checkpoint::{self, CheckpointError};
use serde_json::json;
use zip::CompressionMethod;

use crate::checkpoint_pickle::{
    Claim, HONEST, archive, call, dict, f32s, float, global, int, list, named, pickle, scratch,
    six, tensor, text, tuple, zip,
};

/// The error of reading these bytes, which names the file.
fn refused(bytes: &[u8]) -> CheckpointError {
    let file = scratch(bytes);
    let error = checkpoint::read(&file.path).expect_err("the file lies");
    let message = error.to_string();
    assert!(message.contains("file.bin"), "names the file: {message}");
    error
}

/// Asserts that reading fails as malformed and that the message contains every word.
fn malformed(bytes: &[u8], words: &[&str]) {
    let error = refused(bytes);
    assert!(
        matches!(error, CheckpointError::Malformed { .. }),
        "{error:?}"
    );
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} in: {message}");
    }
}

fn lying(change: impl FnOnce(&mut Claim)) -> Vec<u8> {
    let mut claim = HONEST();
    change(&mut claim);
    archive(&named(&[("weight", tensor(&claim))]), &six())
}

#[test]
fn the_honest_archive_that_the_lies_start_from_is_read() {
    let file = scratch(&archive(
        &named(&[("module.weight", tensor(&HONEST()))]),
        &six(),
    ));
    let read = checkpoint::read(&file.path).expect("honest");
    assert_eq!(read.tensors["weight"].shape, [2, 3]);
    assert_eq!(
        read.tensors["weight"].values,
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    );
}

// --- no checkpoint at all ---------------------------------------------------------------------------------------------------

#[test]
fn an_empty_file_is_named_as_such() {
    let error = refused(b"");
    assert!(matches!(error, CheckpointError::Unrecognised { .. }));
    assert!(error.to_string().contains("an empty file"), "{error}");
}

#[test]
fn a_folder_is_named_as_such() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let error = checkpoint::read(folder.path()).expect_err("a folder");
    assert!(matches!(error, CheckpointError::NotAFile { .. }));
    assert!(error.to_string().contains("a folder"), "{error}");
}

#[test]
fn a_missing_file_is_a_read_error_with_its_path() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let error = checkpoint::read(&folder.path().join("nothing.pth.tar")).expect_err("missing");
    assert!(matches!(error, CheckpointError::Read { .. }));
    assert!(error.to_string().contains("nothing.pth.tar"), "{error}");
}

#[test]
fn a_text_file_is_shown_by_its_beginning() {
    let error = refused(b"epoch,itr,loss\n1,0,0.5\n");
    assert!(matches!(error, CheckpointError::Unrecognised { .. }));
    assert!(error.to_string().contains("epoch,itr,loss"), "{error}");
}

#[test]
fn a_git_lfs_pointer_says_what_to_do() {
    let error = refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}

#[test]
fn wrong_magic_is_shown() {
    let error = refused(b"\x00\x01\x02\x03 no checkpoint");
    assert!(matches!(error, CheckpointError::Unrecognised { .. }));
    assert!(error.to_string().contains(r"\x00\x01\x02\x03"), "{error}");
}

#[test]
fn a_bare_pickle_is_refused_with_the_way_to_convert_it() {
    for bytes in [
        &b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."[..],
        &pickle(&dict(&[])),
    ] {
        let error = refused(bytes);
        assert!(
            matches!(error, CheckpointError::LegacyPickle { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("torch.save"), "{error}");
    }
}

// --- the archive ------------------------------------------------------------------------------------------------------------

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = archive(&named(&[("weight", tensor(&HONEST()))]), &six());
    for len in 4..whole.len() {
        let error = refused(&whole[..len]);
        assert!(
            matches!(error, CheckpointError::Malformed { .. }),
            "cut at {len}: {error:?}"
        );
    }
}

#[test]
fn an_archive_with_any_byte_changed_never_panics() {
    let whole = archive(&named(&[("weight", tensor(&HONEST()))]), &six());
    let file = scratch(&whole);
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            std::fs::write(&file.path, &changed).expect("a scratch file");
            // Some bytes do not matter, such as times and checksums.
            let _ = checkpoint::read(&file.path);
            let _ = checkpoint::list(&file.path);
        }
    }
}

#[test]
fn an_archive_without_data_pkl_is_refused() {
    malformed(
        &zip(CompressionMethod::Stored, &[("archive/version", b"3\n")]),
        &["data.pkl", "1 records"],
    );
    malformed(&zip(CompressionMethod::Stored, &[]), &["data.pkl"]);
}

#[test]
fn two_data_pkl_are_refused() {
    let body = pickle(&dict(&[]));
    let bytes = zip(
        CompressionMethod::Stored,
        &[("a/data.pkl", &body), ("b/data.pkl", &body)],
    );
    malformed(&bytes, &["one record data.pkl", "a/", "b/"]);
}

#[test]
fn big_endian_archives_are_refused() {
    let body = pickle(&dict(&[]));
    let error = refused(&zip(
        CompressionMethod::Stored,
        &[("a/data.pkl", &body), ("a/byteorder", b"big")],
    ));
    assert!(
        matches!(error, CheckpointError::Unsupported { .. }),
        "{error:?}"
    );
}

#[test]
fn a_deflated_archive_is_read() {
    let body = pickle(&named(&[("weight", tensor(&HONEST()))]));
    let bytes = zip(
        CompressionMethod::Deflated,
        &[("a/data.pkl", &body), ("a/data/0", &six())],
    );
    let file = scratch(&bytes);
    let read = checkpoint::read(&file.path).expect("deflated, but honest");
    assert_eq!(read.tensors["weight"].values[5], 5.0);
}

#[test]
fn a_zip_bomb_is_refused_before_it_is_inflated() {
    let zeros = vec![0; 40 << 20];
    let claim = Claim {
        elements: 10 << 20,
        shape: vec![10 << 20],
        strides: vec![1],
        ..HONEST()
    };
    let body = pickle(&named(&[("weight", tensor(&claim))]));
    let bytes = zip(
        CompressionMethod::Deflated,
        &[("a/data.pkl", &body), ("a/data/0", &zeros)],
    );
    assert!(bytes.len() < 100_000);
    malformed(&bytes, &["compressed records of at most", "41943040"]);
}

/// Overwrites the uncompressed size of a record in the zip's central directory.
fn declare(bytes: &mut [u8], name: &str, size: u32) {
    let found = (0..bytes.len()).find(|&at| {
        bytes[at..].starts_with(b"PK\x01\x02") && bytes[at + 46..].starts_with(name.as_bytes())
    });
    let at = found.expect("the record is in the directory");
    bytes[at + 24..at + 28].copy_from_slice(&size.to_le_bytes());
}

#[test]
fn a_deflated_record_that_holds_another_length_than_declared_is_refused() {
    let body = pickle(&named(&[("weight", tensor(&HONEST()))]));
    let record = [six(), vec![7; 5000]].concat();
    for (declared, got) in [(24, "more than that"), (9000, "5024 bytes")] {
        let mut bytes = zip(
            CompressionMethod::Deflated,
            &[("a/data.pkl", &body), ("a/data/0", &record)],
        );
        declare(&mut bytes, "a/data/0", declared);
        malformed(&bytes, &[&format!("{declared} bytes once inflated"), got]);
    }
}

#[test]
fn a_stored_record_larger_than_the_file_is_refused() {
    let mut bytes = archive(&named(&[("weight", tensor(&HONEST()))]), &six());
    declare(&mut bytes, "archive/data/0", 0x7fff_0000);
    let error = refused(&bytes);
    assert!(error.to_string().contains("archive/data/0"), "{error}");
}

#[test]
fn a_pickle_of_absurd_length_is_refused() {
    let body = pickle(&text(&"x".repeat(17 << 20)));
    let bytes = zip(CompressionMethod::Stored, &[("a/data.pkl", &body)]);
    malformed(&bytes, &["data.pkl", "at most 16777216 bytes"]);
}

// --- tensors ----------------------------------------------------------------------------------------------------------------

#[test]
fn a_record_shorter_than_its_storage_is_refused() {
    let bytes = archive(&named(&[("weight", tensor(&HONEST()))]), &six()[..20]);
    malformed(
        &bytes,
        &[
            "tensor weight",
            "24 bytes in record archive/data/0",
            "20 bytes",
        ],
    );
}

#[test]
fn a_storage_without_record_is_refused() {
    malformed(
        &lying(|claim| claim.key = "17"),
        &["tensor weight", "archive/data/17"],
    );
    malformed(
        &lying(|claim| claim.key = "../data.pkl"),
        &["tensor weight", "archive/data/../data.pkl"],
    );
}

#[test]
fn huge_storages_are_refused_without_asking_for_memory() {
    for elements in [1 << 40, 1 << 61, i64::MAX, -1, i64::MIN] {
        malformed(
            &lying(|claim| claim.elements = elements),
            &["tensor weight"],
        );
    }
}

#[test]
fn a_first_element_outside_the_storage_is_refused() {
    for first in [1, 6, i64::MAX, -1] {
        malformed(
            &lying(|claim| claim.first = first),
            &["tensor weight", "first element"],
        );
    }
}

#[test]
fn shapes_that_are_negative_or_overflow_are_refused() {
    for shape in [
        vec![-2, 3],
        vec![3, 3],
        vec![i64::MAX, i64::MAX],
        vec![1 << 32, 1 << 32],
        vec![i64::MAX, i64::MAX, 0],
    ] {
        let strides = vec![1; shape.len()];
        malformed(
            &lying(|claim| (claim.shape, claim.strides) = (shape, strides)),
            &["tensor weight", "shape"],
        );
    }
}

#[test]
fn strides_that_are_negative_overflow_or_leave_the_storage_are_refused() {
    for strides in [
        vec![-3, 1],
        vec![4, 1],
        vec![i64::MAX, 1],
        vec![3, i64::MAX],
        vec![3],
    ] {
        malformed(
            &lying(|claim| claim.strides = strides),
            &["tensor weight", "strides"],
        );
    }
}

#[test]
fn an_expanded_view_cannot_make_a_small_file_large() {
    let claim = |claim: &mut Claim| (claim.shape, claim.strides) = (vec![1 << 40], vec![0]);
    malformed(&lying(claim), &["tensor weight", "no expanded view"]);
}

#[test]
fn many_tensors_over_one_record_cannot_make_a_small_file_large() {
    let names: Vec<String> = (0..1000).map(|i| format!("weight{i}")).collect();
    let pairs: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), tensor(&HONEST())))
        .collect();
    malformed(
        &archive(&named(&pairs), &six()),
        &["share their records at most 4 times"],
    );
}

#[test]
fn an_element_type_that_is_not_read_is_named_but_listed() {
    let claim = Claim {
        storage: "IntStorage",
        ..HONEST()
    };
    let bytes = archive(&named(&[("weight", tensor(&claim))]), &six());
    let error = refused(&bytes);
    assert!(
        matches!(error, CheckpointError::Unsupported { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("I32"), "{error}");
    let listed = checkpoint::list(&scratch(&bytes).path).expect("listing reads no values");
    assert_eq!(listed.tensors[0].dtype, checkpoint::Dtype::I32);
}

// --- the pickle -------------------------------------------------------------------------------------------------------------

#[test]
fn a_foreign_python_object_is_named_and_nothing_is_executed() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let canary = folder.path().join("canary");
    let command = text(&format!("touch {}", canary.display()));
    let stack_global = [text("os"), text("system"), b"\x93".to_vec()].concat();
    for (function, name) in [
        (global("os", "system"), "os.system"),
        (global("posix", "system"), "posix.system"),
        (global("builtins", "eval"), "builtins.eval"),
        (global("torch", "load"), "torch.load"),
        (stack_global, "os.system"),
    ] {
        let body = named(&[("weight", call(function, std::slice::from_ref(&command)))]);
        let error = refused(&archive(&body, &six()));
        match &error {
            CheckpointError::Forbidden { global, .. } => assert_eq!(global, name),
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(!canary.exists());
}

#[test]
fn known_objects_called_with_other_arguments_are_refused() {
    for body in [
        call(global("torch._utils", "_rebuild_tensor_v2"), &[int(1)]),
        call(global("torch._utils", "_rebuild_parameter"), &[int(1)]),
        call(global("torch", "FloatStorage"), &[]),
        call(global("collections", "OrderedDict"), &[list(&[])]),
        call(global("_codecs", "encode"), &[text("x"), text("rot13")]),
        call(global("_codecs", "encode"), &[text("日本"), text("latin1")]),
        call(text("not callable"), &[]),
        [global("torch", "Size").as_slice(), b"NR"].concat(),
        [text("no tuple").as_slice(), b"Q"].concat(),
        [tuple(&[text("module"), int(1)]).as_slice(), b"Q"].concat(),
    ] {
        malformed(&archive(&body, &six()), &["data.pkl, byte"]);
    }
}

#[test]
fn a_dictionary_that_contains_itself_is_read_in_finite_time() {
    // d = {}; memo[0] = d; d["weight"] = tensor; d["self"] = d
    let body = [
        b"}q\x00(".as_slice(),
        &text("weight"),
        &tensor(&HONEST()),
        &text("self"),
        b"h\x00u",
    ]
    .concat();
    let file = scratch(&archive(&body, &six()));
    let read = checkpoint::read(&file.path).expect("cyclic, but with an honest tensor");
    assert_eq!(read.tensors.len(), 1);

    // The same where networks are looked for, and where the optimiser's state is.
    let cyclic = |key: &str| [b"}q\x00(".as_slice(), &text(key), b"h\x00u"].concat();
    malformed(
        &archive(&cyclic("encoder"), &six()),
        &["encoder.encoder", "a tensor"],
    );
    let body = [
        b"}q\x00(".as_slice(),
        &text("encoder"),
        &named(&[("weight", tensor(&HONEST()))]),
        &text("opt"),
        b"h\x00",
        &text("state"),
        b"h\x00u",
    ]
    .concat();
    malformed(&archive(&body, &six()), &["opt"]);
}

#[test]
fn a_million_nested_lists_do_not_overflow_the_stack() {
    let depth = 1_000_000;
    let body = named(&[(
        "weight",
        [vec![b']'; depth], vec![b'a'; depth - 1]].concat(),
    )]);
    malformed(&archive(&body, &six()), &["a dictionary of 1"]);
    malformed(
        &archive(&[vec![b'('; depth], vec![b't'; depth]].concat(), &six()),
        &["a tuple of 1"],
    );
}

#[test]
fn more_values_than_any_checkpoint_describes_are_refused() {
    malformed(
        &archive(&vec![b']'; 1 << 23], &six()),
        &["at most 4194304 values"],
    );
    malformed(
        &archive(&[b"N".as_slice(), &vec![0x94; 1 << 23]].concat(), &six()),
        &["memo slots"],
    );
}

#[test]
fn stacks_that_run_out_are_refused() {
    for body in [
        &b""[..],
        b"0",
        b"t",
        b"(0",
        b"1",
        b"h\x05",
        b"j\x05\x00\x00\x00",
        b"q\x00",
        b"]a",
        b"NNa",
        b"}(Nu",
        b"N(NNu",
        b"\x85",
        b"\x93",
        b"R",
        b"b",
        b"Q",
        b"NNb",
        b"X\xff\xff\xff\xffshort",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffshort",
        b"X\x02\x00\x00\x00\xff\xff",
        b"cno newline",
        b"\x8a\xff",
        b"\x8a\x09123456789",
        b"\x80\x07",
        b"\x81",
        b"I1\n",
    ] {
        malformed(&archive(body, &six()), &["data.pkl"]);
    }
}

#[test]
fn a_pickle_cut_anywhere_is_refused() {
    let whole = pickle(&named(&[("weight", tensor(&HONEST()))]));
    for len in 0..whole.len() {
        let bytes = zip(
            CompressionMethod::Stored,
            &[("a/data.pkl", &whole[..len]), ("a/data/0", &six())],
        );
        malformed(&bytes, &["data.pkl"]);
    }
}

#[test]
fn a_dictionary_without_tensors_names_its_keys() {
    malformed(
        &archive(&named(&[("model", dict(&[])), ("epoch", int(3))]), &six()),
        &["encoder, predictor or target_encoder", "model, epoch"],
    );
    malformed(&archive(&int(5), &six()), &["a dictionary", "the number 5"]);
}

#[test]
fn names_that_become_equal_are_refused() {
    let pairs = [
        ("module.weight", tensor(&HONEST())),
        ("weight", tensor(&HONEST())),
    ];
    malformed(&archive(&named(&pairs), &six()), &["weight twice"]);
}

// --- the optimiser's state ---------------------------------------------------------------------------------------------------

/// A reference checkpoint with one encoder weight (number 0) and one bias (number 1), and this optimiser.
fn with_optimizer(groups: &[&[i64]], state: &[(i64, Code)]) -> Vec<u8> {
    let bias = Claim {
        shape: vec![3],
        strides: vec![1],
        ..HONEST()
    };
    let encoder = named(&[
        ("module.weight", tensor(&HONEST())),
        ("module.bias", tensor(&bias)),
    ]);
    let groups: Vec<Code> = groups
        .iter()
        .map(|numbers| {
            named(&[(
                "params",
                list(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>()),
            )])
        })
        .collect();
    let state: Vec<(Code, Code)> = state
        .iter()
        .map(|(n, state)| (int(*n), state.clone()))
        .collect();
    let optimizer = named(&[("state", dict(&state)), ("param_groups", list(&groups))]);
    let body = named(&[("encoder", encoder), ("opt", optimizer), ("epoch", int(2))]);
    // A record large enough that sharing it is not what is refused.
    archive(&body, &f32s(&[1.0; 64]))
}

type Code = Vec<u8>;

fn adam(shape: &[i64], step: Code) -> Code {
    let strides = if shape.len() == 2 {
        vec![shape[1], 1]
    } else {
        vec![1]
    };
    let claim = Claim {
        shape: shape.to_vec(),
        strides,
        ..HONEST()
    };
    named(&[
        ("step", step),
        ("exp_avg", tensor(&claim)),
        ("exp_avg_sq", tensor(&claim)),
    ])
}

const GROUPS: [&[i64]; 4] = [&[0], &[], &[1], &[]];

#[test]
fn an_honest_optimizer_state_is_read() {
    let bytes = with_optimizer(
        &GROUPS,
        &[(0, adam(&[2, 3], int(9))), (1, adam(&[3], float(9.0)))],
    );
    let read = checkpoint::read(&scratch(&bytes).path).expect("honest");
    let moments = read.moments.expect("state");
    assert_eq!(moments.step, 9);
    assert_eq!(moments.exp_avg["encoder.bias"].shape, [3]);
    assert_eq!(moments.exp_avg_sq["encoder.weight"].shape, [2, 3]);
}

#[test]
fn optimizer_states_that_do_not_fit_are_refused_but_leave_the_networks_readable() {
    let (weight, bias) = (adam(&[2, 3], int(9)), adam(&[3], int(9)));
    let good = [(0, weight.clone()), (1, bias.clone())];
    let cases: [(Vec<u8>, &str); 9] = [
        (with_optimizer(&GROUPS[..3], &good), "4 groups"),
        (
            with_optimizer(&[&[0, 1], &[], &[], &[]], &good),
            "1 parameters of encoder.* with weight decay",
        ),
        (with_optimizer(&[&[0], &[], &[0], &[]], &good), "0 twice"),
        (
            with_optimizer(&GROUPS, &[(0, weight.clone())]),
            "encoder.bias",
        ),
        (
            with_optimizer(
                &GROUPS,
                &[(0, weight.clone()), (1, bias.clone()), (7, bias.clone())],
            ),
            "the number 7",
        ),
        (
            with_optimizer(&GROUPS, &[(0, bias.clone()), (1, bias.clone())]),
            "[2, 3]",
        ),
        (
            with_optimizer(&GROUPS, &[(0, weight.clone()), (1, adam(&[3], int(8)))]),
            "the step 9 of encoder.weight",
        ),
        (
            with_optimizer(
                &GROUPS,
                &[(0, weight.clone()), (1, adam(&[3], float(-1.0)))],
            ),
            "natural number",
        ),
        (
            with_optimizer(&GROUPS, &[(0, weight), (1, named(&[("step", int(9))]))]),
            "a tensor exp_avg",
        ),
    ];
    for (bytes, word) in cases {
        malformed(&bytes, &["opt", word]);
        let file = scratch(&bytes);
        let read =
            checkpoint::read_networks(&file.path, &["encoder"]).expect("the networks are honest");
        assert_eq!(read.tensors.len(), 2);
        let notes = checkpoint::list(&file.path)
            .expect("the networks are honest")
            .notes;
        assert!(notes[0].contains(word), "{notes:?}");
    }
}

// --- safetensors --------------------------------------------------------------------------------------------------------------

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

fn one(dtype: &str, shape: serde_json::Value, offsets: serde_json::Value) -> Vec<u8> {
    let header = json!({"weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
    safetensors(&header.to_string(), &six())
}

#[test]
fn the_honest_safetensors_file_that_the_lies_start_from_is_read() {
    let file = scratch(&one("F32", json!([2, 3]), json!([0, 24])));
    assert_eq!(
        checkpoint::read(&file.path).expect("honest").tensors["weight"].values[5],
        5.0
    );
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
    for header in [
        "{",
        "{}x",
        "{\"a\": 1}",
        "{\"a\": {}}",
        "{\"__metadata__\": []}",
        "{\"__metadata__\": {\"step\": 3}}",
        &deep,
    ] {
        malformed(&safetensors(header, b""), &["header"]);
    }
    malformed(&[&3u64.to_le_bytes()[..], b"{\"\xff"].concat(), &["header"]);
}

#[test]
fn offsets_that_overlap_leave_gaps_or_leave_the_file_are_refused() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let tensor =
            |offsets: [u64; 2]| json!({"dtype": "F32", "shape": [3], "data_offsets": offsets});
        safetensors(&json!({"a": tensor(a), "b": tensor(b)}).to_string(), &six())
    };
    assert!(checkpoint::read(&scratch(&two([0, 12], [12, 24])).path).is_ok());
    malformed(&two([0, 12], [0, 12]), &["without gap or overlap"]);
    malformed(&two([0, 12], [8, 20]), &["without gap or overlap"]);
    malformed(&two([4, 16], [12, 24]), &["without gap or overlap"]);
    malformed(
        &one("F32", json!([2, 3]), json!([0, 28])),
        &["within the 24 bytes"],
    );
    malformed(
        &one("F32", json!([2, 3]), json!([24, 0])),
        &["within the 24 bytes"],
    );
    malformed(
        &one("F32", json!([2, 3]), json!([-24, 0])),
        &["within the 24 bytes"],
    );
    malformed(
        &one("F32", json!([5]), json!([0, 20])),
        &["end of the file"],
    );
}

#[test]
fn shapes_that_contradict_the_bytes_are_refused() {
    malformed(
        &one("F32", json!([7]), json!([0, 24])),
        &["weight", "28 bytes"],
    );
    malformed(
        &one("F16", json!([2, 3]), json!([0, 24])),
        &["weight", "12 bytes"],
    );
    malformed(
        &one("F4", json!([3]), json!([0, 24])),
        &["weight", "2 bytes"],
    );
    for shape in [
        json!([-1]),
        json!([u64::MAX, u64::MAX]),
        json!([1u64 << 60]),
        json!(6),
        json!(["6"]),
    ] {
        malformed(&one("F32", shape, json!([0, 24])), &["weight", "shape"]);
    }
}

#[test]
fn an_unknown_element_type_is_named() {
    malformed(
        &one("F33", json!([2, 3]), json!([0, 24])),
        &["weight, dtype", "F33"],
    );
}

#[test]
fn a_safetensors_file_with_any_byte_of_its_header_changed_never_panics() {
    let whole = one("F32", json!([2, 3]), json!([0, 24]));
    let file = scratch(&whole);
    for at in 0..whole.len() - 24 {
        for flip in 1..=255 {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            std::fs::write(&file.path, &changed).expect("a scratch file");
            let _ = checkpoint::read(&file.path);
        }
    }
}

#[test]
fn our_files_with_moments_that_do_not_fit_are_refused() {
    let tensor =
        |begin: u64| json!({"dtype": "F32", "shape": [2], "data_offsets": [begin, begin + 8]});
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
    let names = [
        "encoder.w",
        "optimizer.exp_avg.encoder.w",
        "optimizer.exp_avg_sq.encoder.w",
    ];
    assert!(checkpoint::read(&scratch(&file(Some("3"), &names)).path).is_ok());
    malformed(&file(None, &names), &["optimizer.step"]);
    malformed(
        &file(Some("-3"), &names),
        &["optimizer.step", "natural number"],
    );
    malformed(
        &file(Some("3"), &names[..2]),
        &["optimizer.exp_avg_sq.encoder.w"],
    );
    malformed(&file(Some("3"), &names[1..]), &["a tensor encoder.w"]);
}
