//! `--device cuda` where a library stands for NVIDIA's driver and cuBLASLt: the program from its command line to its checkpoint, every
//! kernel on the CPU. It is built by a C++ compiler; `IJEPA_CUDA_TEST=1` takes the GPU of this machine instead.

#[cfg(target_os = "linux")]
#[path = "../../../ijepa-tensor/tests/it/cuda/shim.rs"]
mod shim;

use std::path::Path;

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
    if let Some(library) = shim::build() {
        let library = library.to_str().expect("the path is UTF-8").to_owned();
        return Some(vec![("IJEPA_CUDA_DRIVER", library.clone()), ("IJEPA_CUBLASLT", library)]);
    }
    let skipped = "skipped: no C++ compiler: CXX, c++, g++ and clang++ were tried";
    assert!(std::env::var_os("IJEPA_REQUIRE_CUDA_CHECKS").is_none_or(|required| required != "1"), "{skipped}");
    eprintln!("{skipped}");
    None
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
        let of_reference =
            [("loss", step["loss"].as_f64().expect("a number")), ("grad_norm", squares.sum::<f64>().sqrt())];
        for (key, expected) in of_reference {
            let got = row[key].as_f64().expect("a number");
            assert!((got / expected - 1.0).abs() < 1e-3, "{key} is {got}, expected {expected}");
        }
    }

    begin("parts", "2");
    let resumed =
        on_gpu(&gpu, dir.path(), &["pretrain", "--resume", "--replay", &replay, "--out", "parts", "--steps", "4"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    let checkpoint = |run: &str| std::fs::read(latest(&dir.path().join(run))).expect("the run left a checkpoint");
    let tensors = |bytes: &[u8]| {
        let file = safetensors::SafeTensors::deserialize(bytes).expect("it is a safetensors file");
        file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect::<Vec<_>>()
    };
    assert!(tensors(&checkpoint("whole")) == tensors(&checkpoint("parts")), "a resumed run has other bits");
}

#[test]
fn a_run_on_a_gpu_needs_a_driver_cublaslt_and_heads_that_kernels_know_and_says_so_before_it_begins() {
    let dir = scratch();
    let arguments = ["pretrain", "small.yaml", "--data", "scenes:100", "--out", "run"];
    let nowhere = vec![("IJEPA_CUDA_DRIVER", "/nowhere/libcuda.so".to_owned())];
    on_gpu(&nowhere, dir.path(), &arguments).refused(DEVICE, &["NVIDIA driver", "/nowhere/libcuda.so", "--device cpu"]);
    let Some(mut gpu) = gpu() else { return };
    gpu.retain(|(name, _)| *name != "IJEPA_CUBLASLT");
    gpu.push(("IJEPA_CUBLASLT", "/nowhere/libcublasLt.so".to_owned()));
    on_gpu(&gpu, dir.path(), &arguments).refused(DEVICE, &["cuBLASLt", "/nowhere/libcublasLt.so", "pip install"]);
    let wide = [&arguments[..], &["--set", "meta.enc_heads=1", "--set", "meta.enc_emb_dim=128"]].concat();
    on_gpu(&gpu, dir.path(), &wide).refused(DEVICE, &["attention", "heads", "96"]);
    assert!(!dir.path().join("run").exists(), "a refused run leaves nothing");
}
