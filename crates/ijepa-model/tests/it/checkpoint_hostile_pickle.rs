//! Pickles that lie, and optimiser states that do not fit. Nothing is executed, whatever they ask for.

use ijepa_model::checkpoint::{self, CheckpointError, Reader};
use zip::CompressionMethod;

use crate::checkpoint_hostile::{malformed, refused};
use crate::checkpoint_pickle::{
    Claim, Code, HONEST, archive, call, dict, f32s, float, global, int, list, named, pickle, scratch, six, tensor,
    tensor_with, text, tuple, zip,
};

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
    let body = [b"}q\x00(".as_slice(), &text("weight"), &tensor(&HONEST()), &text("self"), b"h\x00u"].concat();
    let file = scratch(&archive(&body, &six()));
    let read = checkpoint::read(&file.path).expect("cyclic, but with an honest tensor");
    assert_eq!(read.tensors.len(), 1);

    // The same where networks are looked for, and where the optimiser's state is.
    let cyclic = |key: &str| [b"}q\x00(".as_slice(), &text(key), b"h\x00u"].concat();
    malformed(&archive(&cyclic("encoder"), &six()), &["encoder.encoder", "a tensor"]);
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
    let body = named(&[("weight", [vec![b']'; depth], vec![b'a'; depth - 1]].concat())]);
    malformed(&archive(&body, &six()), &["a dictionary of 1"]);
    malformed(&archive(&[vec![b'('; depth], vec![b't'; depth]].concat(), &six()), &["a tuple of 1"]);
}

#[test]
fn more_values_than_any_checkpoint_describes_are_refused() {
    malformed(&archive(&vec![b']'; 1 << 23], &six()), &["at most 1048576 values"]);
    malformed(&archive(&[b"N".as_slice(), &vec![0x94; 1 << 23]].concat(), &six()), &["memo slots"]);
}

#[test]
fn a_short_pickle_cannot_make_many_tensors_with_many_axes() {
    let (shape, strides) = (vec![1; 64], vec![1; 64]);
    let claim = Claim { shape, strides, ..HONEST() };
    // function; memo[0] = function; arguments; memo[1] = arguments; call; call again and again
    let made = tensor(&claim);
    let arguments = made.len() - 1;
    let function = global("torch._utils", "_rebuild_tensor_v2");
    let mut body = [b"](", function.as_slice(), b"q\x00", &made[function.len()..arguments], b"q\x01R"].concat();
    body.extend(b"h\x00h\x01R".repeat(1 << 17));
    body.push(b'e');
    malformed(&archive(&body, &six()), &["calls that copy at most 8388608"]);
}

#[test]
fn a_short_pickle_cannot_name_one_tensor_a_hundred_thousand_times() {
    // One without elements, which takes nothing of what tensors may share.
    let empty = Claim { shape: vec![0, 3], ..HONEST() };
    let mut body = [b"}(".as_slice(), &text("first"), &tensor(&empty), b"q\x00"].concat();
    (0..100_000).for_each(|number| body.extend([text(&number.to_string()).as_slice(), b"h\x00"].concat()));
    body.push(b'u');
    malformed(&archive(&body, &six()), &["at most 65536 tensors"]);
}

#[test]
fn storages_of_which_a_stretch_is_meant_are_refused() {
    for further in [tuple(&[text("1"), int(2), int(3)]), int(0), text("cpu")] {
        let body = named(&[("weight", tensor_with(&HONEST(), &[further]))]);
        malformed(&archive(&body, &six()), &["data.pkl, byte", "no view of a larger storage"]);
    }
    let many = vec![b"N".to_vec(); 1 << 20];
    malformed(&archive(&named(&[("weight", tensor_with(&HONEST(), &many))]), &six()), &["no view of a larger"]);
}

#[test]
fn stacks_that_run_out_are_refused() {
    for body in [
        &b""[..],
        b"0",
        b"t",
        b"(0",
        b"N(0t",
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
        let bytes = zip(CompressionMethod::Stored, &[("a/data.pkl", &whole[..len]), ("a/data/0", &six())]);
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
    let pairs = [("module.weight", tensor(&HONEST())), ("weight", tensor(&HONEST()))];
    malformed(&archive(&named(&pairs), &six()), &["weight twice"]);
}

/// A reference checkpoint with one encoder weight (number 0) and one bias (number 1), and this optimiser.
fn with_optimizer(groups: &[&[i64]], state: &[(i64, Code)]) -> Vec<u8> {
    let bias = Claim { shape: vec![3], strides: vec![1], ..HONEST() };
    let encoder = named(&[("module.weight", tensor(&HONEST())), ("module.bias", tensor(&bias))]);
    let groups: Vec<Code> = groups
        .iter()
        .map(|numbers| named(&[("params", list(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>()))]))
        .collect();
    let state: Vec<(Code, Code)> = state.iter().map(|(n, state)| (int(*n), state.clone())).collect();
    let optimizer = named(&[("state", dict(&state)), ("param_groups", list(&groups))]);
    let body = named(&[("encoder", encoder), ("opt", optimizer), ("epoch", int(2))]);
    // A record large enough that sharing it is not what is refused.
    archive(&body, &f32s(&[1.0; 64]))
}

fn adam(shape: &[i64], step: Code) -> Code {
    let strides = if shape.len() == 2 { vec![shape[1], 1] } else { vec![1] };
    let claim = Claim { shape: shape.to_vec(), strides, ..HONEST() };
    named(&[("step", step), ("exp_avg", tensor(&claim)), ("exp_avg_sq", tensor(&claim))])
}

const GROUPS: [&[i64]; 4] = [&[0], &[], &[1], &[]];

#[test]
fn an_honest_optimizer_state_is_read() {
    let bytes = with_optimizer(&GROUPS, &[(0, adam(&[2, 3], int(9))), (1, adam(&[3], float(9.0)))]);
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
        (with_optimizer(&[&[0, 1], &[], &[], &[]], &good), "1 parameters of encoder.* with weight decay"),
        (with_optimizer(&[&[0], &[], &[0], &[]], &good), "0 twice"),
        (with_optimizer(&GROUPS, &[(0, weight.clone())]), "encoder.bias"),
        (with_optimizer(&GROUPS, &[(0, weight.clone()), (1, bias.clone()), (7, bias.clone())]), "the number 7"),
        (with_optimizer(&GROUPS, &[(0, bias.clone()), (1, bias.clone())]), "[2, 3]"),
        (with_optimizer(&GROUPS, &[(0, weight.clone()), (1, adam(&[3], int(8)))]), "the step 9 of encoder.weight"),
        (with_optimizer(&GROUPS, &[(0, weight.clone()), (1, adam(&[3], float(-1.0)))]), "natural number"),
        (with_optimizer(&GROUPS, &[(0, weight), (1, named(&[("step", int(9))]))]), "a tensor exp_avg"),
    ];
    for (bytes, word) in cases {
        malformed(&bytes, &["opt", word]);
        let file = scratch(&bytes);
        let reader = Reader::open(&file.path).expect("the networks are honest");
        assert_eq!(reader.shapes().count(), 2);
        let notes = checkpoint::list(&file.path).expect("the networks are honest").notes;
        assert!(notes[0].contains(word), "{notes:?}");
    }
}
