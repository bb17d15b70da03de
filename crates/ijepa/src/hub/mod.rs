//! Where is the checkpoint of this name? On the disk already, on the Hugging Face Hub, or among the reference's downloads.
//!
//! [`locate`] stands before every reader of a checkpoint and gives a path that exists. A path is itself; other names are
//! [`name`], their caches and variables [`place`], one repository of the Hub [`repo`], one large file [`file`].

mod file;
mod name;
mod place;
mod repo;
mod web;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::{Exit, Failure};
use crate::output;
use name::Name;

pub(crate) use place::{Held, caches, held};

/// What Meta says about its weights, on the Hub and elsewhere.
const META_LICENCE: &str = "these weights are Meta's, under CC BY-NC 4.0: no commercial use";

/// The file or folder that `path` names, fetched into its cache if it is not there yet. What exists on the disk is itself.
pub(crate) fn locate(path: &Path) -> Result<PathBuf> {
    // A path that cannot be looked at is for the reader of checkpoints to report.
    if path.try_exists().unwrap_or(true) {
        return Ok(path.to_owned());
    }
    let said = path.to_string_lossy();
    match name::parse(&said)? {
        Some(Name::Repo(repo)) => repo::locate(&repo),
        Some(Name::Reference(name)) => file::locate(name),
        None => Err(unknown(&said).into()),
    }
}

fn unknown(said: &str) -> Failure {
    let failure = Failure::new(
        Exit::Checkpoint,
        format!(
            "{said}: no such file or folder, and not a name of a checkpoint (hf:OWNER/NAME, or a download name of the reference)"
        ),
    );
    match name::nearest(said) {
        Some(near) => failure.remedy(format!("did you mean {near}?")),
        None => failure.remedy(format!("check the path, or take a known name, such as {}", name::KNOWN[0])),
    }
}

/// What to do when nothing can be fetched.
const ELSEWHERE: &str = "name a local file or folder instead; a cache filled on another machine is found with \
                         HF_HOME (hf: names) or TORCH_HOME (download names), and HF_HUB_OFFLINE=1 never asks the network";

/// Refuses to use the network where `HF_HUB_OFFLINE` says so.
fn online(said: &str, cache: &Path) -> Result<()> {
    if !place::offline() {
        return Ok(());
    }
    let problem = format!("{said} is not in the cache {}, and HF_HUB_OFFLINE forbids the network", cache.display());
    Err(Failure::new(Exit::Checkpoint, problem)
        .remedy("unset HF_HUB_OFFLINE to download it, name a local file or folder instead, or name the cache that holds it with HF_HOME or TORCH_HOME")
        .into())
}

/// Refuses to begin what cannot fit.
fn room(said: &str, folder: &Path, needed: u64) -> Result<()> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    match crate::doctor::disk_free(&folder) {
        Some(free) if free < needed => Err(full(said, &folder)
            .because(anyhow::anyhow!(
                "{} are needed, {} are free",
                crate::inspect::bytes(needed),
                crate::inspect::bytes(free)
            ))
            .into()),
        _ => Ok(()),
    }
}

fn full(said: &str, folder: &Path) -> Failure {
    Failure::new(Exit::Checkpoint, format!("{said}: the disk of {} is full", folder.display()))
        .remedy("make room, or put the cache on another disk with HF_HOME (hf: names) or TORCH_HOME (download names)")
}

/// A file of the cache cannot be written.
fn unwritable(said: &str, path: &Path, error: std::io::Error) -> Failure {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => full(said, path).because(error),
        _ => Failure::new(Exit::Checkpoint, format!("{said}: cannot write {}", path.display()))
            .because(error)
            .remedy("make the folder writable, or put the cache elsewhere with HF_HOME (hf: names) or TORCH_HOME (download names)"),
    }
}

/// A transfer is about to begin: what, how much, whereto, on which terms.
fn announce(said: &str, bytes: u64, folder: &Path, licence: &str) {
    // Terms of use are said even with `-q`.
    output::warning(&format!("{said}: {licence}"));
    output::note(&format!("downloading {said} ({}) into {}", crate::inspect::bytes(bytes), folder.display()));
}
