//! Several GPUs: processes that a test starts, each a rank, over a library that stands for NCCL and works on main memory.
//!
//! With `IJEPA_CUDA_TEST=1` they are the GPUs of this machine and the NCCL that is installed, for as many ranks as there are GPUs.
#![allow(unsafe_code)]

use ijepa_tensor::cuda::communicator::{Blob, Communicator};
use ijepa_tensor::cuda::driver::{Driver, Gpu, Memory};
use ijepa_tensor::cuda::nccl::{Error, Id, Nccl};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use super::shim;

/// Tells a process of this test program which rank of which test it is.
const PART: &str = "IJEPA_TEST_RANK";
/// The test that does nothing but what a rank does.
const RANK: &str = "cuda::nccl::a_process_that_no_test_started_has_no_part";
/// What a rank's lines begin with.
const SAID: &str = "a rank said ";

fn is_real() -> bool {
    std::env::var_os("IJEPA_CUDA_TEST").is_some_and(|wanted| wanted == "1")
}

/// NCCL and driver in one library.
fn fake() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(shim::build).clone()
}

/// What ranks work with.
fn libraries() -> (Rc<Nccl>, Rc<Driver>) {
    if is_real() {
        let (nccl, driver) = (Nccl::open(), Driver::open());
        return (nccl.unwrap_or_else(|error| panic!("{error}")), driver.unwrap_or_else(|error| panic!("{error}")));
    }
    let path = fake().expect("a C++ compiler");
    // SAFETY: the library's functions stand for the driver's and NCCL's.
    unsafe {
        (Nccl::open_at(&path).expect("it has all functions"), Driver::open_at(&path).expect("it has all functions"))
    }
}

/// Whether as many ranks can run here; says so where they cannot.
fn can(ranks: usize) -> bool {
    if !is_real() && fake().is_none() {
        super::skip("no C++ compiler: CXX, c++, g++ and clang++ were tried");
        return false;
    }
    let gpus = if is_real() { libraries().1.count().expect("the driver counts") } else { ranks };
    if gpus < ranks {
        eprintln!("skipped: {ranks} ranks, and {gpus} GPUs");
    }
    gpus >= ranks
}

/// As the program shares blobs out.
fn shards(len: usize, size: usize) -> Vec<Range<usize>> {
    let each = len.div_ceil(size).next_multiple_of(16);
    (0..size).map(|rank| len.min(rank * each)..len.min((rank + 1) * each)).collect()
}

fn values(rank: usize, len: usize) -> Vec<f32> {
    crate::values(len, rank as u64 + 1)
}

/// What the sums must be, in the order of the ranks.
fn sums(size: usize, len: usize) -> Vec<f32> {
    let ranks: Vec<Vec<f32>> = (0..size).map(|rank| values(rank, len)).collect();
    (0..len).map(|i| ranks[1..].iter().fold(ranks[0][i], |sum, rank| sum + rank[i])).collect()
}

fn memory(gpu: &Rc<Gpu>, values: &[f32], room: usize) -> Memory {
    let mut memory = gpu.memory(room * 4).expect("there is memory");
    let padded: Vec<f32> = values.iter().copied().chain(std::iter::repeat(f32::NAN)).take(room).collect();
    memory.write(bytemuck::cast_slice(&padded)).expect("it is written");
    memory
}

fn read(memory: &Memory) -> Vec<f32> {
    memory.read().expect("it is read").chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

/// NCCL may sum in another order than that of the ranks.
#[track_caller]
fn assert_sums(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let tolerance = if is_real() { 2e-6 } else { 0.0 };
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance, "value {i}: {got}, expected {expected}");
    }
}

/// Sums a blob of `len` values, puts it together again on all ranks and on the first; returns what this rank holds.
fn share_out(communicator: &Communicator, gpu: &Rc<Gpu>, len: usize, room: usize) -> Vec<f32> {
    let (rank, size) = (communicator.rank(), communicator.size());
    let (shards, expected) = (shards(len, size), sums(size, len));
    let own = shards[rank].clone();
    let mut blob = memory(gpu, &values(rank, len), room);
    communicator.begin_reduce_scatter(&shards, Blob::of(&mut blob)).expect("all ranks sum");
    communicator.finish().expect("all ranks have summed");
    let sum = read(&blob)[own.clone()].to_vec();
    assert_sums(&sum, &expected[own.clone()]);

    // Nothing but the own shard may be taken from what the rank holds.
    let mut only = vec![f32::NAN; len];
    only[own.clone()].copy_from_slice(&sum);
    let mut blob = memory(gpu, &only, room);
    communicator.gather_shards(&shards, Blob::of(&mut blob)).expect("all ranks send");
    if rank == 0 {
        assert_sums(&read(&blob)[..len], &expected);
    }
    let mut blob = memory(gpu, &only, room);
    communicator.begin_all_gather(&shards, Blob::of(&mut blob)).expect("all ranks gather");
    communicator.finish().expect("all ranks have gathered");
    let all = read(&blob)[..len].to_vec();
    assert_sums(&all, &expected);
    all
}

/// Everything that a communicator does, over blobs with and without room behind them.
fn everything(communicator: &Communicator, gpu: &Rc<Gpu>) -> u64 {
    let (rank, size) = (communicator.rank(), communicator.size());
    let mut hasher = DefaultHasher::new();
    for len in [20, 33, 64 * size, 10_007] {
        for room in [len, shards(len, size)[0].len() * size + 3] {
            let all = share_out(communicator, gpu, len, room);
            all.iter().for_each(|value| value.to_bits().hash(&mut hasher));
        }
    }
    let gathered = communicator.gather(&[rank as f64 + 0.1, -1.0]).expect("all ranks gather");
    let expected: Vec<f64> = (0..size).flat_map(|rank| [rank as f64 + 0.1, -1.0]).collect();
    assert_eq!(gathered, expected);
    assert_eq!(communicator.gather(&[]).expect("all ranks gather"), []);
    hasher.finish()
}

fn hex(id: Id) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_hex(text: &str) -> Id {
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("two digits");
    Id(std::array::from_fn(byte))
}

/// Starts ranks that do `what`.
fn start(what: &str, size: usize, variables: &[(&str, &str)]) -> Vec<Child> {
    let id = hex(libraries().0.id().expect("an id"));
    (0..size).map(|rank| process(&format!("{what} {rank} {size} {id}"), variables)).collect()
}

/// This program once more, with this part.
fn process(part: &str, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().expect("this program has a name"))
        .args([RANK, "--exact", "--nocapture"])
        .env(PART, part)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// What a rank that has done its part said.
#[track_caller]
fn said(rank: Child) -> Vec<String> {
    let Output { status, stdout, stderr } = rank.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{text}\n{}", String::from_utf8_lossy(&stdout));
    text.lines().filter_map(|line| line.strip_prefix(SAID).map(str::to_owned)).collect()
}

#[test]
fn a_process_that_no_test_started_has_no_part() {
    let Ok(part) = std::env::var(PART) else { return };
    if part == "open" {
        let opened = Nccl::open().map_or_else(|error| error.to_string(), |nccl| format!("{:?}", nccl.version()));
        return eprintln!("{SAID}{opened}");
    }
    let part: Vec<&str> = part.split(' ').collect();
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let (rank, size) = (number(part[1]), number(part[2]));
    let (nccl, driver) = libraries();
    let gpu = Gpu::open(&driver, if is_real() { rank } else { 0 }).expect("there is a GPU");
    let communicator = Communicator::join(&nccl, &gpu, of_hex(part[3]), rank, size).expect("all come");
    let mut blob = memory(&gpu, &values(rank, 100), 100);
    match part[0] {
        "everything" => {
            eprintln!("{SAID}{:016x}", everything(&communicator, &gpu));
            communicator.leave().expect("all leave");
        }
        // The last rank is lost before it does anything, or does nothing for longer than the test takes.
        "lost" if rank + 1 == size => std::process::exit(0),
        "hangs" if rank + 1 == size => std::thread::sleep(Duration::from_secs(600)),
        _ => {
            communicator.set_patience(Duration::from_millis(if part[0] == "hangs" { 300 } else { 60_000 }));
            let begun = communicator.begin_all_gather(&shards(100, size), Blob::of(&mut blob));
            let error = begun.and_then(|_| communicator.finish()).expect_err("a rank is missing");
            eprintln!("{SAID}{error}");
            let error = communicator.gather(&[1.0]).expect_err("it has ended");
            eprintln!("{SAID}{error}");
        }
    }
}

#[test]
fn a_world_of_one_sums_and_gathers_what_it_has() {
    if !can(1) {
        return;
    }
    let (nccl, driver) = libraries();
    let gpu = Gpu::open(&driver, 0).expect("there is a GPU");
    let communicator = Communicator::join(&nccl, &gpu, nccl.id().expect("an id"), 0, 1).expect("nobody else comes");
    eprintln!("NCCL {:?}", nccl.version());
    everything(&communicator, &gpu);
    communicator.leave().expect("it leaves");
}

#[test]
fn ranks_sum_and_gather_unequal_shards_and_find_the_same_bits_each_time() {
    for size in [2, 3] {
        if !can(size) {
            return;
        }
        // Also where NCCL returns before it has done what it was asked for.
        let runs = [&[][..], &[], &[("NCCL_COMM_BLOCKING", "0")]];
        let runs = runs.map(|variables| start("everything", size, variables).into_iter().map(said).collect::<Vec<_>>());
        assert!(runs[0].iter().all(|said| said.len() == 1 && *said == runs[0][0]), "{size} ranks: {runs:?}");
        assert!(runs[1] == runs[0] && runs[2] == runs[0], "{size} ranks: {runs:?}");
    }
}

#[test]
fn a_rank_that_is_lost_ends_the_others() {
    if is_real() || !can(3) {
        return;
    }
    let mut ranks = start("lost", 3, &[]);
    let mut lost = ranks.pop().expect("three ranks");
    lost.wait().expect("it is gone");
    for rank in ranks {
        let said = said(rank);
        assert!(said[0].contains("all_gather failed with 6") && said[0].contains("rank 2 is gone"), "{said:?}");
        assert_eq!(said[1], "gather: the ranks have lost each other before");
    }
}

#[test]
fn a_rank_that_hangs_is_waited_for_no_longer_than_the_others_have_patience() {
    if is_real() || !can(2) {
        return;
    }
    let mut ranks = start("hangs", 2, &[]);
    let mut hanging = ranks.pop().expect("two ranks");
    let said = said(ranks.remove(0));
    hanging.kill().and_then(|()| hanging.wait()).expect("it can be killed");
    assert!(said[0].starts_with("rank 0 of 2 has waited ") && said[0].contains("in all_gather"), "{said:?}");
    assert_eq!(said[1], "gather: the ranks have lost each other before");
}

#[test]
fn an_id_that_nobody_knows_is_refused_with_what_nccl_says() {
    if is_real() || !can(1) {
        return;
    }
    let (nccl, driver) = libraries();
    let gpu = Gpu::open(&driver, 0).expect("there is a GPU");
    let error = Communicator::join(&nccl, &gpu, Id([0; 128]), 0, 2).err().expect("it is refused");
    assert!(matches!(&error, Error::Call { call: "ncclCommInitRank", code: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("nobody listens"), "{error}");
}

#[test]
fn a_library_that_is_missing_too_old_or_not_nccl_is_named() {
    let opened = |variables: &[(&str, &str)]| said(process("open", variables)).remove(0);
    let missing = opened(&[("IJEPA_NCCL_LIB", "/nowhere/libnccl.so.2")]);
    assert!(missing.contains("found: /nowhere/libnccl.so.2: ") && missing.contains("2.16.2 or later"), "{missing}");
    let other = opened(&[("IJEPA_NCCL_LIB", "libc.so.6")]);
    assert!(other.starts_with("libc.so.6 lacks nccl") && other.contains("IJEPA_NCCL_LIB"), "{other}");
    if let Some(fake) = fake() {
        let fake = fake.to_str().expect("target is UTF-8");
        assert_eq!(opened(&[("IJEPA_NCCL_LIB", fake)]), "(2, 27, 3)");
        for (code, version) in [("2708", "2.7.8"), ("21202", "2.12.2")] {
            let old = opened(&[("IJEPA_NCCL_LIB", fake), ("FAKE_NCCL_VERSION", code)]);
            assert!(old.starts_with(&format!("{fake} is NCCL {version}: 2.16.2 or later is expected")), "{old}");
        }
    }
    if std::env::var_os("IJEPA_NCCL_LIB").is_none() && Nccl::open().is_err() {
        let usual = opened(&[]);
        assert!(usual.contains("libnccl.so.2: "), "{usual}");
    }
}
