//! Training in parts: several batches a step, several processes. The same losses as at once, up to the order of summation (relative 1e-5);
//! a lost rank, a failing one, a signal, and going on with another number of ranks.
//!
//! Runs with several ranks need a build with the feature `mpi` and Open MPI's `mpirun`; without the latter they are skipped, which
//! `IJEPA_REQUIRE_MPI=1` makes a failure.

use std::path::Path;

#[cfg(not(feature = "mpi"))]
use super::ijepa_in;
use super::{Said, ijepa, scratch};

/// Sums in another order differ by this much, relative to the loss.
const TOLERANCE: f64 = 1e-5;

/// `pretrain small.yaml` on 60 scenes with masks that do not depend on who takes which image: 5 steps of 12 images an epoch.
fn arguments<'a>(out: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let run =
        ["-q", "pretrain", "small.yaml", "--data", "scenes:60", "--out", out, "--set", "mask.truncate_over=global"];
    [&run[..], options].concat()
}

fn rows(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

fn losses(run: &Path) -> Vec<f64> {
    rows(run).iter().map(|row| row["loss"].as_f64().expect("a number")).collect()
}

#[track_caller]
fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{got:?} {expected:?}");
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got / expected - 1.0).abs() < TOLERANCE, "step {step}: the loss is {got}, expected {expected}");
    }
}

/// What a run of several ranks says that it has exchanged is what `plan` says of as many devices.
#[track_caller]
pub(crate) fn assert_traffic_is_as_planned(folder: &Path, devices: &str, said: &Said) {
    let plan = ijepa(folder, &["plan", "small.yaml", "--gpus", devices]);
    let after = |text: &str, word: &str| -> (f64, String) {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(word)).expect("it is said");
        let mut words = line.split_whitespace().map(str::to_owned);
        let number = words.next().and_then(|number| number.parse().ok()).expect("a number");
        (number, words.next().expect("a unit"))
    };
    let (planned, exchanged) = (after(&plan.stdout, "traffic"), after(&said.stderr, "ranks:"));
    // The shards of the first ranks are a little longer.
    assert!((exchanged.0 / planned.0 - 1.0).abs() < 0.01 && exchanged.1 == planned.1, "{exchanged:?} {planned:?}");
}

/// The whole run on one rank, each step at once.
fn at_once(folder: &Path) -> Vec<f64> {
    let said = ijepa(folder, &arguments("one", &["--set", "data.batch_size=12"]));
    assert_eq!(said.code, Some(0), "{said:?}");
    losses(&folder.join("one"))
}

#[test]
fn gradients_that_are_added_up_over_batches_give_the_losses_of_one_batch() {
    let dir = scratch();
    let expected = at_once(dir.path());
    assert_eq!(expected.len(), 10);
    for (size, accumulate) in [(4, 3), (6, 2), (1, 12)] {
        let (out, size) = (format!("acc{accumulate}"), format!("data.batch_size={size}"));
        let accumulate = format!("optimization.accumulate={accumulate}");
        let said = ijepa(dir.path(), &arguments(&out, &["--set", &size, "--set", &accumulate]));
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_close(&losses(&dir.path().join(&out)), &expected);
    }
    // Masks that are cut over each batch alone are longer.
    let own = ["--set", "data.batch_size=4", "--set", "optimization.accumulate=3", "--set", "mask.truncate_over=rank"];
    assert_eq!(ijepa(dir.path(), &arguments("own", &own)).code, Some(0));
    let context = |run: &str| {
        rows(&dir.path().join(run)).iter().map(|row| row["context_patches"].as_f64().expect("a number")).sum::<f64>()
    };
    assert!(context("own") > context("acc3"), "{} and {}", context("own"), context("acc3"));
    assert_eq!(context("acc3"), context("one"));
}

#[test]
#[cfg(not(feature = "mpi"))]
fn one_of_several_processes_that_know_nothing_of_each_other_is_refused() {
    let dir = scratch();
    for (size, rank) in
        [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"), ("WORLD_SIZE", "RANK")]
    {
        let first = ijepa_in(dir.path(), &[(size, "2"), (rank, "0")], &arguments("run", &[]));
        first.refused(5, &["2 processes", size, "--features mpi"]);
        let second = ijepa_in(dir.path(), &[(size, "2"), (rank, "1")], &arguments("run", &[]));
        assert_eq!((second.code, second.stderr.as_str()), (Some(5), ""));
        let demo = ijepa_in(dir.path(), &[(size, "2"), (rank, "0")], &["demo", "--out", "run"]);
        demo.refused(5, &["2 processes", size]);
    }
    assert!(!dir.path().join("run").exists());
}

#[cfg(feature = "mpi")]
mod over_mpi {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Whether `mpirun` is there; says so where it is not.
    fn is_there() -> bool {
        let there = Command::new("mpirun").arg("--version").output().is_ok_and(|said| said.status.success());
        if !there {
            let required = std::env::var_os("IJEPA_REQUIRE_MPI").is_some_and(|required| required == "1");
            assert!(!required, "IJEPA_REQUIRE_MPI is 1, and there is no mpirun");
            eprintln!("skipped: there is no mpirun");
        }
        there
    }

    fn command(folder: &Path, ranks: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new("mpirun");
        command
            .args(["--oversubscribe", "-n", &ranks.to_string(), env!("CARGO_BIN_EXE_ijepa")])
            .args(arguments)
            .current_dir(folder)
            .env("NO_COLOR", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .stdin(Stdio::null());
        command
    }

    fn ranks(folder: &Path, ranks: usize, arguments: &[&str]) -> Said {
        let output = command(folder, ranks, arguments).output().expect("mpirun starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn checkpoint(run: &Path) -> Vec<u8> {
        std::fs::read(run.join("checkpoints/latest.safetensors")).expect("the run left a checkpoint")
    }

    /// Weights and moments, without what is said beside them.
    fn tensors(run: &Path) -> Vec<u8> {
        let bytes = checkpoint(run);
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        bytes[8 + header..].to_vec()
    }

    /// A run that will be disturbed: long enough for that.
    fn started(folder: &Path, count: usize, options: &[&str]) -> Child {
        let long =
            ["--set", "optimization.epochs=2000", "--set", "data.batch_size=6", "--set", "logging.save_every=3 steps"];
        let arguments = arguments("run", &[&long[..], options].concat());
        let mut child = command(folder, count, &arguments);
        child.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("mpirun starts")
    }

    /// Waits until so many steps are logged.
    fn wait_for(folder: &Path, child: &mut Child, steps: usize) {
        let began = Instant::now();
        let done = || std::fs::read_to_string(folder.join("run/metrics.jsonl")).map_or(0, |text| text.lines().count());
        while done() < steps {
            if child.try_wait().expect("the child is ours").is_some() {
                let mut said = String::new();
                child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
                panic!("the run ended before it was disturbed: {said}");
            }
            assert!(began.elapsed() < Duration::from_secs(120), "the run does not get on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process of a rank that works in `folder`.
    fn process(folder: &Path, rank: usize) -> String {
        let folder = folder.canonicalize().expect("it is there");
        let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
        let is_it = |process: &Path| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
                && environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
        };
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten().map(|entry| entry.path());
        let found = processes.into_iter().find(|process| is_it(process)).expect("the rank runs");
        found.file_name().expect("a number").to_string_lossy().into_owned()
    }

    fn signal(signal: &str, process: &str) {
        assert!(Command::new("kill").args([signal, process]).status().expect("kill runs").success());
    }

    fn ended(child: Child) -> (Option<i32>, String) {
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn ranks_that_share_a_step_give_the_losses_of_one_rank() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        let expected = at_once(dir.path());
        for (count, size, accumulate) in [(2, 6, 1), (3, 4, 1), (2, 3, 2)] {
            let (out, size) = (format!("ranks{count}x{accumulate}"), format!("data.batch_size={size}"));
            let accumulate = format!("optimization.accumulate={accumulate}");
            let said = ranks(dir.path(), count, &arguments(&out, &["--set", &size, "--set", &accumulate]));
            assert_eq!(said.code, Some(0), "{said:?}");
            let run = dir.path().join(&out);
            assert_close(&losses(&run), &expected);
            for rank in 0..count {
                let csv = std::fs::read_to_string(run.join(format!("jepa_r{rank}.csv"))).expect("a log of each rank");
                assert_eq!(csv.lines().count(), 11, "{csv}");
            }
        }
    }

    #[test]
    fn ranks_exchange_what_a_plan_says() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        for count in [2, 3] {
            let out = format!("run{count}");
            let run = ["pretrain", "small.yaml", "--data", "scenes:60", "--out", &out, "--steps", "2"];
            let said = ranks(dir.path(), count, &[&run[..], &["--set", "data.batch_size=4"]].concat());
            assert_eq!(said.code, Some(0), "{said:?}");
            assert_traffic_is_as_planned(dir.path(), &format!("{count}xH100"), &said);
        }
    }

    #[test]
    fn moments_that_are_shared_out_buckets_and_threads_change_no_bit() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        for count in [2, 3] {
            let run = |shard: &str, threads: &str, megabytes: &str| {
                let out = format!("{count}{shard}{threads}{megabytes}");
                let shard = format!("distributed.shard_optimizer={shard}");
                let bucket = format!("distributed.bucket_mb={megabytes}");
                let options = ["--threads", threads, "--set", &shard, "--set", &bucket, "--set", "data.batch_size=4"];
                let said = ranks(dir.path(), count, &arguments(&out, &options));
                assert_eq!(said.code, Some(0), "{said:?}");
                (tensors(&dir.path().join(&out)), losses(&dir.path().join(&out)))
            };
            let shared = run("true", "1", "0.02");
            assert!(shared == run("false", "1", "0.02") && shared == run("true", "2", "32"));
        }
    }

    #[test]
    fn a_run_goes_on_with_another_number_of_ranks_where_it_was() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        let expected = at_once(dir.path());
        let run = dir.path().join("run");
        // Two ranks of 6 images; three of 4; one, in two batches; five, with unequal shares.
        let begun = ranks(dir.path(), 2, &arguments("run", &["--set", "data.batch_size=6", "--steps", "3"]));
        assert_eq!(begun.code, Some(0), "{begun:?}");
        for (count, steps) in [(3, "5"), (1, "7"), (5, "10")] {
            let resume = ["-q", "pretrain", "--resume", "--out", "run", "--steps", steps];
            let said = if count == 1 { ijepa(dir.path(), &resume) } else { ranks(dir.path(), count, &resume) };
            assert_eq!(said.code, Some(0), "{count} ranks: {said:?}");
        }
        assert_close(&losses(&run), &expected);
        // Seven steps of the reference's kind would be others; with as many ranks as before, not a bit is.
        let whole = ranks(dir.path(), 2, &arguments("whole", &["--set", "data.batch_size=6", "--steps", "6"]));
        let first = ranks(dir.path(), 2, &arguments("parts", &["--set", "data.batch_size=6", "--steps", "4"]));
        let second = ranks(dir.path(), 2, &["-q", "pretrain", "--resume", "--out", "parts", "--steps", "6"]);
        assert_eq!((whole.code, first.code, second.code), (Some(0), Some(0), Some(0)));
        assert!(tensors(&dir.path().join("whole")) == tensors(&dir.path().join("parts")));
    }

    #[test]
    fn a_rank_that_is_killed_ends_all_by_name_and_the_run_goes_on_from_its_checkpoint() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        let mut child = started(dir.path(), 3, &[]);
        wait_for(dir.path(), &mut child, 7);
        signal("-KILL", &process(dir.path(), 1));
        let (code, said) = ended(child);
        // mpirun's own code is that of the process that was the first to end, 128 + 9.
        assert_eq!(code, Some(137), "{said}");
        assert_eq!(said.matches("rank 1 is lost").count(), 1, "{said}");
        assert!(said.contains("--resume"), "{said}");
        let resumed = ["-q", "pretrain", "--resume", "--out", "run", "--data", "scenes:60"];
        let said = ranks(dir.path(), 2, &[&resumed[..], &["--steps", "12"]].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(losses(&dir.path().join("run")).len() >= 7);
    }

    #[test]
    fn a_rank_that_hangs_is_given_up_with_code_5() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        let mut child = started(dir.path(), 2, &["--set", "distributed.timeout_minutes=0.1"]);
        wait_for(dir.path(), &mut child, 4);
        let hanging = process(dir.path(), 1);
        signal("-STOP", &hanging);
        let (code, said) = ended(child);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("rank 0 has waited") && said.contains("timeout_minutes"), "{said}");
    }

    #[test]
    fn a_signal_to_one_rank_saves_and_ends_all_with_75() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        let mut child = started(dir.path(), 2, &[]);
        wait_for(dir.path(), &mut child, 4);
        signal("-TERM", &process(dir.path(), 1));
        let (code, said) = ended(child);
        assert_eq!(code, Some(75), "{said}");
        let steps = losses(&dir.path().join("run")).len();
        let next = (steps + 1).to_string();
        let said = ranks(dir.path(), 2, &["-q", "pretrain", "--resume", "--out", "run", "--steps", &next]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(losses(&dir.path().join("run")).len(), steps + 1);
    }

    #[test]
    fn what_fails_on_one_rank_ends_all_with_its_code_and_is_said_once() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        // Every rank has the same fault: it is said once, and no folder is left.
        let said = ranks(dir.path(), 2, &arguments("none", &["--set", "data.batch_sise=6"]));
        assert_eq!((said.code, said.stderr.matches("did you mean").count()), (Some(2), 1), "{said:?}");
        assert!(!dir.path().join("none").exists());
        // A loss that is not finite is so on all.
        let wild =
            ["--set", "optimization.lr=1e30", "--set", "optimization.start_lr=1e30", "--set", "data.batch_size=6"];
        let said = ranks(dir.path(), 2, &arguments("wild", &wild));
        assert_eq!((said.code, said.stderr.matches("the step was not taken").count()), (Some(6), 1), "{said:?}");
        // One rank meets the one image that is none.
        let images = dir.path().join("images");
        std::fs::create_dir(&images).expect("created");
        for k in 0..11u8 {
            let pixels = image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([k * 20, x as u8 * 6, y as u8 * 6]));
            pixels.save(images.join(format!("{k:02}.png"))).expect("saved");
        }
        std::fs::write(images.join("bad.png"), "no picture").expect("written");
        let sets = ["--set", "data.batch_size=6", "--set", "data.skip_limit=0"];
        let said = ranks(
            dir.path(),
            2,
            &[&["-q", "pretrain", "small.yaml", "--data", "images", "--out", "bad"], &sets[..]].concat(),
        );
        assert_eq!(said.code, Some(3), "{said:?}");
        assert_eq!(said.stderr.matches("of 2 has failed, and with it the run").count(), 1, "{said:?}");
    }

    #[test]
    fn a_command_for_one_process_is_refused_under_a_launcher() {
        if !is_there() {
            return;
        }
        let dir = scratch();
        let said = ranks(dir.path(), 2, &["demo", "--out", "run"]);
        assert_eq!(
            (said.code, said.stderr.matches("ijepa demo was started as 2 processes").count()),
            (Some(5), 1),
            "{said:?}"
        );
        assert!(!dir.path().join("run").exists());
    }
}
