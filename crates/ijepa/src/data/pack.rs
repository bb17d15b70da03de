//! How is a data set stored so that it can be read in order? As WebDataset shards: tar files of some hundred megabytes, in which the
//! members `KEY.jpg` and `KEY.cls` are an image and its class.
//!
//! The same images give the same bytes: members have no times, owners or names of this machine. Shards are written into a folder
//! of their own beside their place, and move when all of them are complete.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ijepa_data::decode::{Limits, decode, ending};
use ijepa_data::{Dataset, Stored, loader};
use serde::Serialize;

use super::work::in_order;
use super::{Part, classes, parts};
use crate::cli::DataPackArgs;
use crate::exit::{Exit, Failure};
use crate::inspect::bytes;
use crate::log::progress::Progress;
use crate::output;

/// Size of a shard where nothing is said: WebDataset's own advice is 100 MB to 1 GB.
const SHARD_BYTES: u64 = 500_000_000;
/// Images that are shuffled together where the source is unpacked in groups (Parquet): others would be unpacked for each image.
const WINDOW: usize = 4096;
/// Images that a thread reads ahead of the writer.
const AHEAD: usize = 16;
/// A tar file consists of blocks of so many bytes; a member takes one for its name and some for its content, the end takes two.
const BLOCK: u64 = 512;
/// Least digits of a key.
const DIGITS: usize = 8;
/// Where shards lie until all are complete, under the folder that they go to.
const UNFINISHED: &str = ".pack-unfinished";

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    images: usize,
    shards: Vec<String>,
    bytes: u64,
    /// How many classes the images have, where they are known.
    classes: Option<usize>,
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    path: String,
    error: String,
}

/// Runs the command.
pub(super) fn run(args: &DataPackArgs) -> Result<Exit> {
    let parts = parts(&args.path)?;
    if let Some(part) = parts.iter().find(|part| matches!(part.dataset, Dataset::Scenes(_) | Dataset::Tensors(_))) {
        let problem = format!("{} is no image file: only encoded images can be packed", part.dataset.name(0));
        return Err(Failure::new(Exit::Data, problem)
            .remedy("give a folder of images, or what else holds image files")
            .into());
    }
    let (names, numbers) = classes(&parts);
    let unfinished = begin(args, &parts)?;
    let mut report = Report { images: 0, shards: Vec::new(), bytes: 0, classes: None, left_out: Vec::new() };
    let mut progress = Progress::start(parts.iter().map(|part| part.dataset.len() as u64).sum(), 0);
    for (part, numbers) in parts.iter().zip(&numbers) {
        let labels = part.dataset.labels();
        let number = |label: u32| numbers.get(label as usize).copied().unwrap_or(label);
        let labels = labels.map(|labels| labels.into_iter().map(number).collect::<Vec<u32>>());
        if let Some(most) = labels.iter().flatten().max() {
            let classes = if names.is_empty() { *most as usize + 1 } else { names.len() };
            report.classes = Some(report.classes.unwrap_or(0).max(classes));
        }
        let shards = Shards::new(&unfinished.0, &name(args, part), args);
        write(part, labels.as_deref(), args, shards, &mut report, &mut progress)?;
    }
    progress.finish();
    if report.images == 0 {
        return Err(Failure::new(Exit::Data, format!("{}: no image could be read", args.path))
            .remedy("the warnings above name them; mend or remove them")
            .into());
    }
    finish(args, &unfinished.0, &names, &mut report)?;
    if args.json {
        output::json(&report)?;
    } else {
        let left_out = match report.left_out.len() {
            0 => String::new(),
            count => format!(", {count} left out"),
        };
        let (shards, size) = (report.shards.len(), bytes(report.bytes));
        output::result(&format!(
            "{} images{left_out} in {shards} shards, {size}, in {}",
            report.images,
            args.out.display()
        ))?;
    }
    Ok(Exit::Done)
}

/// First part of the names of the shards of a part.
fn name(args: &DataPackArgs, part: &Part) -> String {
    match (&args.name, part.name) {
        (None, "all") => "images".to_owned(),
        (None, split) => split.to_owned(),
        (Some(name), "all") => name.clone(),
        (Some(name), split) => format!("{name}-{split}"),
    }
}

/// A folder of unfinished shards, which goes with what is left in it.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is gone already when all went well.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The folder for unfinished shards. Nothing that is there already may be overwritten.
fn begin(args: &DataPackArgs, parts: &[Part]) -> Result<Unfinished> {
    let out = &args.out;
    if let Some(name) = args.name.as_ref().filter(|name| !is_plain(name)) {
        return Err(Failure::usage(format!("--name is {name:?}; letters, digits, - and _ are expected")).into());
    }
    fs::create_dir_all(out).map_err(|error| unwritable(out, error))?;
    let entries = fs::read_dir(out).map_err(|error| unwritable(out, error))?;
    for entry in entries {
        let found = entry.map_err(|error| unwritable(out, error))?.file_name().to_string_lossy().into_owned();
        let is_shard = |part: &Part| {
            let number = found.strip_prefix(&name(args, part)).and_then(|rest| rest.strip_prefix('-'));
            number
                .and_then(|rest| rest.strip_suffix(".tar"))
                .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        };
        if parts.iter().any(is_shard) || found == "classes.txt" {
            return Err(Failure::usage(format!("{} holds {found} already; nothing is overwritten", out.display()))
                .remedy("another --out or --name, or remove the old shards")
                .into());
        }
    }
    let unfinished = out.join(UNFINISHED);
    match fs::create_dir(&unfinished) {
        Ok(()) => Ok(Unfinished(unfinished)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let problem = format!("{} is there: another call is at work, or was interrupted", unfinished.display());
            Err(Failure::usage(problem).remedy("wait for it, or remove that folder").into())
        }
        Err(error) => Err(unwritable(&unfinished, error).into()),
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}", path.display()))
        .because(error)
        .remedy("give another folder with --out, or make room and permission in this one")
}

/// Writes the shards of a part.
fn write(
    part: &Part,
    labels: Option<&[u32]>,
    args: &DataPackArgs,
    mut shards: Shards,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<()> {
    let dataset = &part.dataset;
    let order: Vec<usize> = match args.shuffle {
        Some(seed) => loader::order(dataset, seed, 0, WINDOW).iter().map(|&index| index as usize).collect(),
        None => (0..dataset.len()).collect(),
    };
    let digits = DIGITS.max(dataset.len().to_string().len());
    let threads = ijepa_tensor::threads::count();
    let (mut written, mut done) = (0, (report.images + report.left_out.len()) as u64);
    for block in order.chunks(AHEAD * threads) {
        let images = in_order(block, threads, |index| image(dataset, index, args.check));
        for (&index, image) in block.iter().zip(images) {
            match image {
                Ok((ending, content)) => {
                    let label = labels.map(|labels| labels[index].to_string());
                    shards
                        .add(&format!("{written:0digits$}"), (ending, &content), label.as_deref())
                        .with_context(|| format!("cannot write the shards in {}", args.out.display()))?;
                    written += 1;
                }
                Err(error) => {
                    let path = dataset.name(index);
                    progress.warning(&format!("left out: {path}: {error}"));
                    report.left_out.push(LeftOut { path, error });
                }
            }
        }
        done += block.len() as u64;
        progress.advance(done, "images");
    }
    report.images += written;
    let bytes = shards.finish().with_context(|| format!("cannot write the shards in {}", args.out.display()))?;
    report.bytes += bytes;
    Ok(())
}

/// An image's ending and bytes, decoded on trial if asked for.
fn image(dataset: &Dataset, index: usize, check: bool) -> Result<(&'static str, Vec<u8>), String> {
    let Stored::Encoded(content) = dataset.read(index).map_err(|error| error.to_string())? else {
        return Err("no image file".to_owned());
    };
    let ending = ending(&content).ok_or_else(|| ijepa_data::DecodeError::UnknownFormat.to_string())?;
    if check {
        decode(&content, Limits::default()).map_err(|error| error.to_string())?;
    }
    Ok((ending, content))
}

/// Moves the shards to their place and writes the names of the classes beside them.
fn finish(args: &DataPackArgs, unfinished: &Path, names: &[String], report: &mut Report) -> Result<()> {
    if !names.is_empty() {
        let mut text = names.iter().map(|name| name.replace(['\n', '\r'], " ")).collect::<Vec<_>>().join("\n");
        text.push('\n');
        let path = unfinished.join("classes.txt");
        fs::write(&path, text).map_err(|error| unwritable(&path, error))?;
    }
    let entries = fs::read_dir(unfinished).map_err(|error| unwritable(unfinished, error))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut files = files.map_err(|error| unwritable(unfinished, error))?;
    files.sort();
    for file in files {
        let place = args.out.join(file.file_name().unwrap_or_default());
        fs::rename(&file, &place).map_err(|error| unwritable(&place, error))?;
        if place.extension().is_some_and(|ending| ending == "tar") {
            report.shards.push(place.display().to_string());
        }
    }
    fs::remove_dir(unfinished).map_err(|error| unwritable(unfinished, error))?;
    Ok(())
}

/// Shards in the making, one after the other.
struct Shards {
    folder: PathBuf,
    name: String,
    /// Most bytes and most images of a shard; each has one image at least.
    limits: (u64, usize),
    shard: Option<Shard>,
    count: usize,
    bytes: u64,
}

struct Shard {
    tar: tar::Builder<BufWriter<File>>,
    bytes: u64,
    images: usize,
}

impl Shards {
    fn new(folder: &Path, name: &str, args: &DataPackArgs) -> Shards {
        let limits = match (args.shard_bytes, args.shard_images) {
            (Some(bytes), _) => (bytes.0, usize::MAX),
            (None, Some(images)) => (u64::MAX, images),
            (None, None) => (SHARD_BYTES, usize::MAX),
        };
        Shards { folder: folder.to_owned(), name: name.to_owned(), limits, shard: None, count: 0, bytes: 0 }
    }

    fn add(&mut self, key: &str, (ending, content): (&str, &[u8]), label: Option<&str>) -> Result<()> {
        let member = |content: &[u8]| BLOCK + (content.len() as u64).next_multiple_of(BLOCK);
        let bytes = member(content) + label.map_or(0, |label| member(label.as_bytes()));
        let (most_bytes, most_images) = self.limits;
        if self.shard.as_ref().is_some_and(|shard| shard.bytes + bytes > most_bytes || shard.images >= most_images) {
            self.close()?;
        }
        if self.shard.is_none() {
            let file = File::create_new(self.folder.join(format!("{}-{:06}.tar", self.name, self.count)))?;
            self.count += 1;
            self.shard = Some(Shard { tar: tar::Builder::new(BufWriter::new(file)), bytes: 2 * BLOCK, images: 0 });
        }
        let shard = self.shard.as_mut().context("a shard was begun")?;
        append(&mut shard.tar, &format!("{key}.{ending}"), content)?;
        if let Some(label) = label {
            append(&mut shard.tar, &format!("{key}.cls"), label.as_bytes())?;
        }
        shard.bytes += bytes;
        shard.images += 1;
        Ok(())
    }

    /// Completes the last shard; the bytes of all.
    fn finish(mut self) -> Result<u64> {
        self.close()?;
        Ok(self.bytes)
    }

    fn close(&mut self) -> Result<()> {
        if let Some(shard) = self.shard.take() {
            let mut out = shard.tar.into_inner()?;
            out.flush()?;
            out.get_ref().sync_all()?;
            self.bytes += out.get_ref().metadata()?.len();
        }
        Ok(())
    }
}

/// A member without anything that differs from call to call.
fn append(tar: &mut tar::Builder<BufWriter<File>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    tar.append(&header, content)?;
    Ok(())
}
