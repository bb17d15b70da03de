//! A checkpoint as large as a ViT-H/14 is listed at once and loaded without a second copy. Writes 2.5 GB: `IJEPA_LARGE=1` runs it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ijepa_model::VitConfig;
use ijepa_model::checkpoint::{Meta, Network};
use ijepa_model::export::{self, Encoder};
use ijepa_model::saved;

/// Runs the program and returns what it took: time, and the most memory that it held at once.
#[cfg(target_os = "linux")]
fn measured(folder: &Path, arguments: &[&str]) -> (Duration, u64) {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ijepa"))
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let code = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1024);
        if let Some(code) = child.try_wait().expect("it is our child") {
            break code;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(code.success(), "{arguments:?} ended with {code}");
    (began.elapsed(), most)
}

#[cfg(target_os = "linux")]
#[test]
fn a_huge_encoder_is_listed_at_once_and_loaded_without_a_second_copy() {
    if std::env::var_os("IJEPA_LARGE").is_none() {
        eprintln!("skipped: IJEPA_LARGE is not set, and this test writes 2.5 GB");
        return;
    }
    let config =
        VitConfig { image: (224, 224), patch: 14, channels: 3, width: 1280, depth: 32, heads: 16, hidden: 5120 };
    let (layout, vit) = saved::encoder(config);
    let params = layout.init(1, 0.02);
    let weights = (layout.len * size_of::<f32>()) as u64;
    let dir = tempfile::tempdir().expect("a scratch folder");
    let lone = Encoder { layout: &layout, vit: &vit, params: &params };
    export::write_torch_encoder(&dir.path().join("h14.pth.tar"), lone, Network::Target, &Meta::default())
        .expect("there is room for 2.5 GB");
    drop(params);

    let (time, most) = measured(dir.path(), &["inspect", "h14.pth.tar"]);
    assert!(most < 200 << 20, "inspect held {most} bytes");
    eprintln!("inspect: {time:?}, {} MB", most >> 20);
    // One patch: what is measured is the loading.
    let embed =
        ["-q", "embed", "--checkpoint", "h14.pth.tar", "--data", "scenes:1", "--image-size", "14", "--out", "a.npy"];
    let (time, most) = measured(dir.path(), &embed);
    assert!(most * 10 <= weights * 13, "loading {weights} bytes of weights held {most}");
    eprintln!("embed: {time:?}, {} MB for {} MB of weights", most >> 20, weights >> 20);
}
