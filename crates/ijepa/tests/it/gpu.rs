//! `--device cuda` where a library stands for NVIDIA's driver and cuBLASLt: the program from its command line to its checkpoint, every
//! kernel on the CPU. It is built by a C++ compiler; `IJEPA_CUDA_TEST=1` takes the GPU of this machine instead.

#[cfg(target_os = "linux")]
#[path = "../../../ijepa-tensor/tests/it/cuda/shim.rs"]
mod shim;

use std::collections::BTreeMap;
use std::path::Path;

use crate::ranks::assert_traffic_is_as_planned;
use crate::training::{TINY, golden, latest, metrics};
use crate::{Said, ijepa_in, scratch};

/// The exit code of devices and ranks.
const DEVICE: i32 = 5;

/// The variables that lead to the library; nothing where it cannot be built.
fn gpu() -> Option<Vec<(&'static str, String)>> {
    if std::env::var_os("IJEPA_CUDA_TEST").is_some_and(|wanted| wanted == "1") {
        return Some(Vec::new());
    }
    #[cfg(target_os = "linux")]
    static LIBRARY: std::sync::LazyLock<Option<std::path::PathBuf>> = std::sync::LazyLock::new(shim::build);
    #[cfg(target_os = "linux")]
    if let Some(library) = &*LIBRARY {
        let library = library.to_str().expect("the path is UTF-8").to_owned();
        let names = ["IJEPA_CUDA_DRIVER", "IJEPA_CUBLASLT", "IJEPA_NCCL_LIB"];
        // As a driver has them: the kernels of the PTX inside the program.
        let gpus = [("SHIM_GPUS", "2".to_owned()), ("SHIM_PTX", "1".to_owned())];
        return Some(names.map(|name| (name, library.clone())).into_iter().chain(gpus).collect());
    }
    let skipped = "skipped: no C++ compiler: CXX, c++, g++ and clang++ were tried";
    assert!(std::env::var_os("IJEPA_REQUIRE_CUDA_CHECKS").is_none_or(|required| required != "1"), "{skipped}");
    eprintln!("{skipped}");
    None
}

/// As [`gpu`], where there are two.
fn two_gpus() -> Option<Vec<(&'static str, String)>> {
    let variables = gpu()?;
    let count = ijepa_tensor::cuda::driver::Driver::open().and_then(|driver| driver.count()).unwrap_or_default();
    if variables.is_empty() && count < 2 {
        eprintln!("skipped: two GPUs are needed, this machine has {count}");
        return None;
    }
    Some(variables)
}

fn on_gpu(gpu: &[(&'static str, String)], folder: &Path, arguments: &[&str]) -> Said {
    let variables: Vec<(&str, &str)> = gpu.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--device", "cuda"]).collect();
    ijepa_in(folder, &variables, &arguments)
}

#[test]
fn a_replay_on_a_gpu_stays_near_the_losses_and_norms_of_the_reference_and_goes_on_to_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("tiny.yaml"), TINY).expect("it can be written");
    let (init, replay) = (golden("init.pth.tar"), golden("replay.safetensors"));
    let begin = |out: &str, steps: &str| {
        let said = on_gpu(
            &gpu,
            dir.path(),
            &["pretrain", "tiny.yaml", "--init", &init, "--replay", &replay, "--out", out, "--steps", steps],
        );
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    begin("whole", "4");
    let expected = std::fs::read_to_string(golden("expected.json")).expect("the golden numbers read");
    let expected: serde_json::Value = serde_json::from_str(&expected).expect("they are JSON");
    let rows = metrics(&dir.path().join("whole"));
    assert_eq!(rows.len(), 4);
    for (row, step) in rows.iter().zip(expected["steps"].as_array().expect("a list")) {
        let squares = step["grad_norms"]
            .as_object()
            .expect("a table")
            .values()
            .map(|norm| norm.as_f64().expect("a number").powi(2));
        // The reference wrote its gradients down at the first step. One is rounded to bfloat16 on its way, a loss is not.
        let norm = Some(squares.sum::<f64>().sqrt()).filter(|norm| *norm > 0.0);
        let of_reference = [("loss", step["loss"].as_f64(), 1e-3), ("grad_norm", norm, 1.0 / 256.0)];
        for (key, expected, tolerance) in of_reference {
            let Some(expected) = expected else { continue };
            let got = row[key].as_f64().expect("a number");
            assert!((got / expected - 1.0).abs() < tolerance, "{key} is {got}, expected {expected}");
        }
    }

    begin("parts", "2");
    // The second time a stream does nothing before it is waited for.
    let late: Vec<_> = gpu.iter().cloned().chain([("SHIM_STREAMS", "late".to_owned())]).collect();
    let resumed =
        on_gpu(&late, dir.path(), &["pretrain", "--resume", "--replay", &replay, "--out", "parts", "--steps", "4"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    let checkpoint = |run: &str| std::fs::read(latest(&dir.path().join(run))).expect("the run left a checkpoint");
    assert!(tensors(&checkpoint("whole")) == tensors(&checkpoint("parts")), "a resumed run has other bits");
}

#[test]
fn two_gpus_give_the_losses_of_one_and_share_out_the_moments_without_another_bit() {
    let Some(gpu) = two_gpus() else { return };
    let dir = scratch();
    let variables: Vec<(&str, &str)> = gpu.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let losses = |out: &str| {
        let rows = metrics(&dir.path().join(out));
        let steps = rows.iter().filter(|row| row["lr"].is_number());
        steps.map(|row| row["loss"].as_f64().expect("a number")).collect::<Vec<f64>>()
    };
    let train_with = |variables: &[(&str, &str)], out: &str, steps: &str, arguments: &[&str]| {
        let run = ["pretrain", "small.yaml", "--data", "scenes:16", "--out", out, "--steps", steps];
        // Many buckets, each summed as soon as it is complete.
        let shared = ["--set", "mask.truncate_over=global", "--set", "distributed.bucket_mb=0.02"];
        let said = ijepa_in(dir.path(), variables, &[&run[..], &shared, arguments].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        if arguments.contains(&"--gpus") {
            assert_traffic_is_as_planned(dir.path(), "2xH100", &said);
        }
        losses(out)
    };
    let train = |out: &str, steps: &str, arguments: &[&str]| train_with(&variables, out, steps, arguments);
    // Streams that do nothing before they are waited for: what does not wait for what it needs comes too early.
    let late = [&variables[..], &[("SHIM_STREAMS", "late")]].concat();
    // The first one also looks at its features, on the GPU.
    let looks = ["--set", "eval.every=2 steps", "--set", "eval.images=8"];
    let ops_late = [&variables[..], &[("SHIM_STREAMS", "ops late")]].concat();
    let one =
        train_with(&ops_late, "one", "3", &[&["--device", "cuda", "--set", "data.batch_size=8"], &looks[..]].concat());
    let rows = metrics(&dir.path().join("one"));
    assert!(rows.iter().any(|row| row["rank_me"].is_number()), "nothing was looked at: {rows:?}");
    let each = ["--set", "data.batch_size=4"];
    let whole = ["--gpus", "0,1", "--set", "distributed.shard_optimizer=false"];
    let two = train("two", "3", &[&whole, &each[..]].concat());
    let sharded = ["--gpus", "0-1", "--set", "distributed.shard_optimizer=true"];
    let shared = train_with(&late, "shared", "3", &[&sharded, &each[..]].concat());
    // And those that do at once what they are asked for, while NCCL takes its time.
    let at_once = train("at once", "3", &[&sharded, &each[..]].concat());
    assert_eq!((one.len(), two.len()), (3, 3));
    for (one, two) in one.iter().zip(&two) {
        assert!((two / one - 1.0).abs() < 1e-4, "{two} is far from {one}");
    }
    assert_eq!(two, shared);
    let bytes = |run: &str| std::fs::read(latest(&dir.path().join(run))).expect("the run left a checkpoint");
    assert!(tensors(&bytes("two")) == tensors(&bytes("shared")), "sharded moments give other bits");
    assert!(shared == at_once && tensors(&bytes("two")) == tensors(&bytes("at once")), "something came too early");

    // With another number of GPUs steps keep their images.
    train("fewer", "2", &[&["--gpus", "0,1"], &each[..]].concat());
    let arguments = ["pretrain", "--resume", "--out", "fewer", "--device", "cuda", "--steps", "3"];
    let resumed = ijepa_in(dir.path(), &variables, &arguments);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    let last = losses("fewer")[2];
    assert!((last / one[2] - 1.0).abs() < 1e-4, "{last} is far from {}", one[2]);
}

#[test]
fn doctor_judges_every_op_on_a_gpu_and_a_step_is_timed_there() {
    let Some(gpu) = gpu() else { return };
    let dir = scratch();
    let found = on_gpu(&gpu, dir.path(), &["doctor", "--json"]).json();
    assert!(found["gpu"]["ops"].as_u64().is_some_and(|ops| ops > 20), "{found}");
    assert_eq!(found["gpu"]["wrong"], serde_json::json!([]), "{found}");
    assert!(found["gpu"]["nccl"].is_string() || found["gpu"]["count"] == 1, "{found}");
    if !gpu.is_empty() {
        assert_eq!((&found["gpu"]["count"], &found["gpu"]["nccl"]), (&2.into(), &"2.27.3".into()));
        // Without NCCL two GPUs cannot train together, and the way out is said.
        let mut without = gpu.clone();
        without.retain(|(name, _)| *name != "IJEPA_NCCL_LIB");
        without.push(("IJEPA_NCCL_LIB", "/nowhere/libnccl.so.2".to_owned()));
        let said = on_gpu(&without, dir.path(), &["doctor"]);
        assert!(said.code == Some(0) && said.stdout.contains("/nowhere/libnccl.so.2"), "{said:?}");
        assert!(said.stdout.contains("to do: several GPUs are here"), "{said:?}");
        let train = |variables: &[(&'static str, String)], gpus: &str| {
            let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            ijepa_in(dir.path(), &variables, &["pretrain", "small.yaml", "--data", "scenes:20", "--gpus", gpus])
        };
        let said = train(&without, "0,1");
        said.refused(DEVICE, &["/nowhere/libnccl.so.2", "IJEPA_NCCL_LIB"]);
        assert_eq!(said.stderr.matches("/nowhere").count(), 1, "{said:?}");
        train(&gpu, "0-2").refused(DEVICE, &["--gpus", "no GPU 2", "shows 2"]);
    }
    let timed = on_gpu(&gpu, dir.path(), &["bench", "step", "--json", "--config", "small.yaml", "--steps", "1"]).json();
    assert_eq!(timed["gpu"], found["gpu"]["name"], "{timed}");
    assert!(timed["ms"].as_f64().is_some_and(|ms| ms > 0.0) && timed["planned_ms"].is_null(), "{timed}");
    // The plan assumes something of CUDA's libraries besides.
    let plan = ijepa_in(dir.path(), &[], &["plan", "small.yaml", "--gpus", "H100", "--json"]).json();
    let bytes = |value: &serde_json::Value| value.as_f64().expect("a number");
    let planned = bytes(&plan["memory_total_bytes"]) - bytes(&plan["memory"]["program"]);
    assert!((bytes(&timed["peak_bytes"]) / planned - 1.0).abs() < 0.12, "{timed} {planned}");
}

#[test]
fn features_from_a_gpu_are_those_of_the_cpu_rounded_and_are_kept_apart() {
    let Some(gpu) = gpu() else { return };
    let dir = crate::embed::trained();
    let checkpoint = ["--checkpoint", "run/checkpoints/latest.safetensors"];
    let data = ["--data", "scenes:6", "--tokens", "--batch", "4"];
    let embed = |out: &str, device: &str| {
        let arguments = [&["embed", "--out", out], &checkpoint[..], &data].concat();
        let said =
            if device == "cpu" { ijepa_in(dir.path(), &[], &arguments) } else { on_gpu(&gpu, dir.path(), &arguments) };
        assert_eq!(said.code, Some(0), "{said:?}");
        ["pooled", "tokens"].map(|name| crate::embed::tensor(&dir.path().join(out), name).1)
    };
    for (cpu, gpu) in embed("cpu.safetensors", "cpu").iter().zip(&embed("gpu.safetensors", "cuda")) {
        let largest = cpu.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let distance = cpu.iter().zip(gpu).map(|(cpu, gpu)| (cpu - gpu).abs()).fold(0.0, f32::max);
        assert!(distance > 0.0 && distance < largest / 32.0, "{distance} of {largest}");
    }
    // Features of both kinds are kept, and neither is taken for the other.
    let cache = ["--cache", "kept", "--train", "scenes:12", "--val", "scenes:6", "--json"];
    let judge = [&["eval", "knn"], &checkpoint[..], &cache].concat();
    let kept = || std::fs::read_dir(dir.path().join("kept")).map_or(0, Iterator::count);
    let first = on_gpu(&gpu, dir.path(), &judge).json();
    let of_gpu = kept();
    assert_eq!(on_gpu(&gpu, dir.path(), &judge).json(), first);
    assert_eq!(kept(), of_gpu);
    ijepa_in(dir.path(), &[], &judge).json();
    assert!(of_gpu > 0 && kept() == 2 * of_gpu, "{of_gpu} and {}", kept());
    on_gpu(&gpu, dir.path(), &[&["embed", "--bf16", "--out", "x.npy"], &checkpoint[..], &data].concat())
        .refused(2, &["--bf16", "--device"]);
}

#[test]
fn fine_tuning_on_a_gpu_stays_near_that_on_the_cpu_and_leaves_a_network_for_either() {
    let Some(gpu) = gpu() else { return };
    let dir = crate::embed::trained();
    let checkpoint = ["--checkpoint", "run/checkpoints/latest.safetensors"];
    let data = ["--train", "scenes:20", "--val", "scenes:10", "--per-class", "2", "--epochs", "2", "--json"];
    let tune = |out: &str, device: &str| {
        let arguments = [&["eval", "finetune", "--out", out], &checkpoint[..], &data].concat();
        let said =
            if device == "cpu" { ijepa_in(dir.path(), &[], &arguments) } else { on_gpu(&gpu, dir.path(), &arguments) };
        said.json()["results"][0]["loss"].as_f64().expect("a number")
    };
    let (cpu, gpu_loss) = (tune("cpu", "cpu"), tune("gpu", "cuda"));
    assert!((gpu_loss / cpu - 1.0).abs() < 0.01, "{gpu_loss} is far from {cpu}");
    // What it left is learnt on from on a CPU, with the images that have no labels.
    let init = ["--init", "gpu/checkpoints/latest.safetensors", "--semi-epochs", "1"];
    let arguments = [&["eval", "semi"], &checkpoint[..], &data, &init].concat();
    let [on_cpu, on_gpu] = [ijepa_in(dir.path(), &[], &arguments), on_gpu(&gpu, dir.path(), &arguments)]
        .map(|said| said.json()["results"][1]["loss"].as_f64().expect("a number"));
    assert!((on_gpu / on_cpu - 1.0).abs() < 0.02, "{on_gpu} is far from {on_cpu}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_lost_gpu_ends_all_with_its_name_and_leaves_no_process() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let Some(gpu) = two_gpus() else { return };
    let dir = scratch();
    let launcher = Command::new(env!("CARGO_BIN_EXE_ijepa"))
        .args(["pretrain", "small.yaml", "--data", "scenes:64", "--out", "run", "--gpus", "0,1"])
        .args(["--set", "optimization.epochs=100"])
        .current_dir(dir.path())
        .env("NO_COLOR", "1")
        .envs(gpu)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let (began, log) = (Instant::now(), dir.path().join("run/metrics.jsonl"));
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 2 {
        assert!(began.elapsed() < Duration::from_secs(120), "no step is logged");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ranks = children(launcher.id());
    assert_eq!(ranks.len(), 2);
    let killed = Command::new("kill").args(["-9", &ranks[1].to_string()]).status().expect("there is kill");
    assert!(killed.success());
    let ended = launcher.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(DEVICE), "{said}");
    assert!(said.contains("rank 1") && said.contains("--resume"), "{said}");
    assert!(!Path::new(&format!("/proc/{}", ranks[0])).exists(), "rank 0 is still there");
}

/// Processes whose parent is `parent`, in the order in which they were started.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Names and bytes of all tensors of a checkpoint.
fn tensors(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let file = safetensors::SafeTensors::deserialize(bytes).expect("it is a safetensors file");
    file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect()
}

#[test]
fn a_run_on_a_gpu_needs_a_driver_cublaslt_and_heads_that_kernels_know_and_says_so_before_it_begins() {
    let dir = scratch();
    let arguments = ["pretrain", "small.yaml", "--data", "scenes:100", "--out", "run"];
    let run = dir.path().join("run");
    let nowhere = vec![("IJEPA_CUDA_DRIVER", "/nowhere/libcuda.so".to_owned())];
    on_gpu(&nowhere, dir.path(), &arguments).refused(DEVICE, &["NVIDIA driver", "/nowhere/libcuda.so", "--device cpu"]);
    let Some(mut gpu) = gpu() else { return };
    let wide = [&arguments[..], &["--set", "meta.enc_heads=1", "--set", "meta.enc_emb_dim=128"]].concat();
    on_gpu(&gpu, dir.path(), &wide).refused(DEVICE, &["attention", "heads", "96"]);
    gpu.retain(|(name, _)| *name != "IJEPA_CUBLASLT");
    gpu.push(("IJEPA_CUBLASLT", "/nowhere/libcublasLt.so".to_owned()));
    on_gpu(&gpu, dir.path(), &arguments).refused(DEVICE, &["cuBLASLt", "/nowhere/libcublasLt.so", "pip install"]);
    assert!(!run.exists(), "a refused run leaves nothing");
}
