//! How do our pictures compare with those of the Python ecosystem? `cargo xtask peers transforms` holds every transform to the bytes of
//! Pillow, torchvision and timm; `cargo xtask peers data` times our loader and theirs in turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::interop::{call, environment};
use crate::peers::{median, report};

const TRANSFORMS_USAGE: &str = "\
usage: cargo xtask peers transforms --photos FOLDER [--python PYTHON] [--count 500] [--seed 0]
       cargo xtask peers transforms --goldens [--python PYTHON]

FOLDER holds photos at any depth. PYTHON has what peers/transforms/requirements.txt names; without it, an environment with them is made.
With --goldens, goldens/transforms/cases.bin is written anew.";

const DATA_USAGE: &str = "\
usage: cargo xtask peers data --photos FOLDER [--python PYTHON] [--threads N] [--images 4000] [--rounds 3]
                              [--loaders folder,tensor,webdataset] [--sizes 500x375,160,32] [--count 4000]

Pictures to time on are made of the photos in FOLDER, once, in target/peers-data. PYTHON has what peers/data/requirements.txt names;
without it, an environment with them is made. Close everything else first: figures are medians of rounds, in turn.";

/// Name of a folder of pictures, and the side that is cut out of them.
const SIZES: [(&str, &str); 3] = [("500x375", "224"), ("160", "160"), ("32", "32")];

/// Holds our transforms to those of Pillow, torchvision and timm.
pub(crate) fn transforms(arguments: &[&str]) -> Result<()> {
    let goldens = arguments.contains(&"--goldens");
    let given: Vec<&str> = arguments.iter().copied().filter(|argument| *argument != "--goldens").collect();
    let options = options(&given, &["--python", "--photos", "--count", "--seed"], TRANSFORMS_USAGE)?;
    let mut theirs = Command::new(python(&options, "transforms")?);
    theirs.arg(crate::root().join("peers/transforms/transforms.py"));
    if goldens {
        let path = crate::root().join("goldens/transforms/cases.bin");
        let file = std::fs::File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        return call(theirs.arg("--goldens").stdout(file));
    }
    let photos = options.get("--photos").with_context(|| format!("--photos: expected\n{TRANSFORMS_USAGE}"))?;
    theirs.arg("--photos").arg(std::path::absolute(photos)?);
    for name in ["--count", "--seed"] {
        theirs.args(options.get(name).map(|value| [name, *value]).into_iter().flatten());
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    call(Command::new(cargo).args(["build", "-q", "--release", "-p", "ijepa-data", "--example", "transforms"]))?;
    let mut theirs = theirs.stdout(Stdio::piped()).spawn().context("Python cannot be started")?;
    let cases = theirs.stdout.take().context("its output is piped")?;
    let compared = call(Command::new(built("examples/transforms")).stdin(cases));
    let status = theirs.wait()?;
    if !status.success() {
        bail!("peers/transforms/transforms.py ended with {status}");
    }
    compared
}

/// Times loaders in turn.
pub(crate) fn data(arguments: &[&str]) -> Result<()> {
    let names = ["--python", "--photos", "--threads", "--images", "--rounds", "--loaders", "--sizes", "--count"];
    let options = options(arguments, &names, DATA_USAGE)?;
    let get = |name: &str, otherwise: &'static str| options.get(name).copied().unwrap_or(otherwise);
    let photos = options.get("--photos").with_context(|| format!("--photos: expected\n{DATA_USAGE}"))?;
    let python = python(&options, "data")?;
    let folder = crate::root().join("target/peers-data");
    let mut photos_command = Command::new(&python);
    photos_command.arg("peers/data/photos.py").arg("--photos").arg(std::path::absolute(photos)?);
    call(photos_command.arg("--out").arg(&folder).args(["--count", get("--count", "4000")]))?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    call(Command::new(cargo).args(["build", "-q", "--release", "-p", "ijepa"]))?;

    let threads = options.get("--threads").map_or_else(
        || std::thread::available_parallelism().map_or_else(|_| "1".to_owned(), |count| count.to_string()),
        |&threads| threads.to_owned(),
    );
    let rounds: usize = get("--rounds", "3").parse().context("--rounds: a number is expected")?;
    let images = get("--images", "4000");
    println!("| pictures | crop | loader | images/s | ours against it |");
    println!("|---|---|---|---|---|");
    for name in get("--sizes", "500x375,160,32").split(',') {
        let Some((_, crop)) = SIZES.iter().find(|(known, _)| *known == name) else {
            bail!("--sizes {name}: 500x375, 160 or 32 is expected");
        };
        let mut speeds = BTreeMap::<&str, Vec<f64>>::new();
        for _ in 0..rounds.max(1) {
            let mut ours = Command::new(built("ijepa"));
            ours.args(["bench", "data", "--json", "--crop", *crop, "--threads", threads.as_str(), "--images", images]);
            let speed = img_per_s(ours.arg("--data").arg(folder.join(name)))?;
            speeds.entry("ijepa").or_default().push(speed);
            for loader in get("--loaders", "folder,tensor,webdataset").split(',') {
                let mut theirs = Command::new(&python);
                theirs.arg(crate::root().join("peers/data/loader.py")).args(["--loader", loader, "--crop", *crop]);
                theirs.args(["--workers", threads.as_str(), "--images", images]).arg("--data").arg(folder.join(name));
                speeds.entry(loader).or_default().push(img_per_s(&mut theirs)?);
            }
        }
        let ours = median(&speeds["ijepa"]);
        for (loader, speeds) in &speeds {
            let speed = median(speeds);
            println!("| {name} | {crop} | {loader} | {speed:.0} | {:.2} |", ours / speed);
        }
    }
    Ok(())
}

fn img_per_s(command: &mut Command) -> Result<f64> {
    report(command)?["img_per_s"].as_f64().context("a report without `img_per_s`")
}

/// Pairs of a name and a value.
pub(crate) fn options<'a>(arguments: &[&'a str], names: &[&str], usage: &str) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut options = BTreeMap::new();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if names.contains(name) => options.insert(*name, *value),
            _ => bail!("{}: no such option, or without its value\n{usage}", pair[0]),
        };
    }
    Ok(options)
}

pub(crate) fn python(options: &BTreeMap<&str, &str>, peers: &str) -> Result<PathBuf> {
    options.get("--python").map_or_else(|| environment(peers), |python| Ok(PathBuf::from(python)))
}

/// A program of the release build.
pub(crate) fn built(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from);
    target.join("release").join(Path::new(&format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}
