//! The CUDA kernels without a GPU: compiled for three generations of cards, and run on the CPU against the op table.
//!
//! Both need what not every machine has, a C++ compiler and NVRTC; without it a test says that it was skipped, and with
//! `IJEPA_REQUIRE_CUDA_CHECKS=1` it fails.

mod compiled;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod kernels;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod nccl;
#[cfg(target_os = "linux")]
mod nvidia;
#[cfg(target_os = "linux")]
mod shim;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod tape;
#[cfg(target_os = "linux")]
mod traffic;
#[cfg(target_os = "linux")]
mod uploads;

/// Says that a check was left out, or fails where none may be.
fn skip(reason: &str) {
    let skipped = format!("skipped: {reason}");
    assert!(std::env::var_os("IJEPA_REQUIRE_CUDA_CHECKS").is_none_or(|required| required != "1"), "{skipped}");
    eprintln!("{skipped}");
}
