//! Builds a library that is a driver with the CPU in the place of a GPU, every kernel, cuBLASLt and NCCL, with a C++ compiler.

use ijepa_tensor::cuda::{HEADERS, SOURCES};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands for a GPU and NVIDIA's libraries, beside the kernels.
const FILES: [(&str, &str); 11] = [
    ("shim.h", include_str!("shim.h")),
    ("traffic.h", include_str!("traffic.h")),
    ("ptx.h", include_str!("ptx.h")),
    ("ptx_functions.h", include_str!("ptx_functions.h")),
    ("streams.h", include_str!("streams.h")),
    ("shim.cpp", include_str!("shim.cpp")),
    ("traffic.cpp", include_str!("traffic.cpp")),
    ("ptx.cpp", include_str!("ptx.cpp")),
    ("fake_driver.cpp", include_str!("fake_driver.cpp")),
    ("fake_cublaslt.cpp", include_str!("fake_cublaslt.cpp")),
    ("fake_nccl.cpp", include_str!("fake_nccl.cpp")),
];
/// Kernels that do what they must not.
const FAULTS: &str = include_str!("faults.cu");
pub(super) const FAULTY: [&str; 10] = [
    "neighbour_without_barrier",
    "read_before_write",
    "barrier_for_some",
    "shuffle_for_some",
    "beyond_the_buffer",
    "before_the_buffer",
    "beyond_shared_memory",
    "warp_barrier_between_warps",
    "copy_not_waited_for",
    "copy_over_what_others_read",
];

/// Compiles the kernels and the shim, unless that was done for the same texts before.
pub(super) fn build() -> Option<PathBuf> {
    let compiler = compiler()?;
    let mut hasher = DefaultHasher::new();
    (FILES, FAULTS, FAULTY, &compiler).hash(&mut hasher);
    HEADERS.hash(&mut hasher);
    SOURCES.iter().for_each(|source| (source.name, source.text, source.kernels).hash(&mut hasher));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{:016x}", hasher.finish()));
    let library = folder.join("libkernels.so");
    if !library.exists() {
        compile(&compiler, &folder, &library);
    }
    Some(library)
}

/// A C++ compiler, if there is one.
pub(super) fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    let candidates = named.into_iter().chain(["c++", "g++", "clang++"].map(String::from));
    candidates
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success()))
}

fn compile(compiler: &str, folder: &Path, library: &Path) {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("target is writable");
    std::fs::create_dir_all(folder).expect("target is writable");
    HEADERS.iter().chain(&FILES).for_each(|(name, text)| write(name, text));
    let own = FILES.iter().filter_map(|(name, _)| name.strip_suffix(".cpp"));
    let mut objects: Vec<(String, bool)> = own.map(|name| (name.to_owned(), false)).collect();
    let faults = ("faults", FAULTS, &FAULTY[..]);
    for (name, text, kernels) in SOURCES.iter().map(|it| (it.name, it.text, it.kernels)).chain([faults]) {
        let registered: String = kernels.iter().map(|kernel| format!("REGISTER({kernel})\n")).collect();
        write(&format!("{name}.cu"), text);
        write(&format!("{name}.cpp"), &format!("#include \"{name}.cu\"\n{registered}"));
        objects.push((name.to_owned(), true));
    }
    let run = |arguments: &[&str]| {
        let output = Command::new(compiler).current_dir(folder).args(arguments).output().expect("the compiler starts");
        assert!(output.status.success(), "{compiler} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let common = [
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-fno-strict-aliasing",
        "-U_FORTIFY_SOURCE",
        "-pthread",
        "-DIJEPA_SHIM",
        "-w",
        "-I.",
        "-c",
    ];
    std::thread::scope(|scope| {
        // Two at a time.
        for share in objects.chunks(objects.len().div_ceil(2)) {
            let run = &run;
            scope.spawn(move || {
                for (name, watched) in share {
                    let file = format!("{name}.cpp");
                    let mut arguments = common.to_vec();
                    arguments.extend(watched.then_some("-fsanitize=thread"));
                    arguments.push(&file);
                    run(&arguments);
                }
            });
        }
    });
    let objects: Vec<String> = objects.iter().map(|(name, _)| format!("{name}.o")).collect();
    let mut arguments = vec!["-shared", "-pthread", "-o", "linked.so"];
    arguments.extend(objects.iter().map(String::as_str));
    arguments.push("-lrt");
    run(&arguments);
    std::fs::rename(folder.join("linked.so"), library).expect("target is writable");
}
