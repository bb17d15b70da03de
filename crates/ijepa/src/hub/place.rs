//! Where do fetched checkpoints lie, and which variables of the environment say so?
//!
//! The folders and variables are those of other programs (`huggingface_hub`, `torch.hub`), so that what one has fetched, all find.

use std::env;
use std::path::{Path, PathBuf};

/// Files that are counted before counting is given up: looking must stay quick.
const COUNTED_MAX: usize = 10_000;

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn folder(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `$XDG_CACHE_HOME`, else `~/.cache`.
pub(crate) fn caches() -> PathBuf {
    folder("XDG_CACHE_HOME").unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache"))
}

fn hugging_face() -> PathBuf {
    folder("HF_HOME").unwrap_or_else(|| caches().join("huggingface"))
}

/// The cache of the Hub: `HF_HUB_CACHE`, else `HF_HOME/hub`.
pub(super) fn hub() -> PathBuf {
    let hub = folder("HF_HUB_CACHE").unwrap_or_else(|| hugging_face().join("hub"));
    // Links inside the cache are relative, and are made from whole paths only.
    std::path::absolute(&hub).unwrap_or(hub)
}

/// Where `torch.hub` keeps downloads: `TORCH_HOME/hub/checkpoints`.
pub(super) fn torch() -> PathBuf {
    folder("TORCH_HOME").unwrap_or_else(|| caches().join("torch")).join("hub").join("checkpoints")
}

/// The Hub's address.
pub(super) fn endpoint() -> String {
    variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()).trim_end_matches('/').to_owned()
}

/// Where the reference's downloads are.
pub(super) fn reference() -> String {
    let address = variable("IJEPA_REFERENCE_URL");
    address.unwrap_or_else(|| "https://dl.fbaipublicfiles.com/ijepa".to_owned()).trim_end_matches('/').to_owned()
}

/// Who asks: `HF_TOKEN`, else the token that `hf auth login` left.
pub(super) fn token() -> Option<String> {
    let file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hugging_face().join("token"));
    let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(file).ok())?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Whether `HF_HUB_OFFLINE` forbids the network.
pub(super) fn offline() -> bool {
    variable("HF_HUB_OFFLINE")
        .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str()))
}

/// The state of the caches, for `doctor`.
#[derive(serde::Serialize)]
pub(crate) struct Held {
    pub(crate) hub: String,
    pub(crate) torch: String,
    /// Models of both; absent where there are too many files to count quickly.
    pub(crate) bytes: Option<u64>,
    pub(crate) offline: bool,
}

/// Looks at the caches.
pub(crate) fn held() -> Held {
    let (hub, torch) = (hub(), torch());
    let mut left = COUNTED_MAX;
    let repos = entries(&hub)
        .filter(|repo| repo.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")));
    let folders = repos.map(|repo| repo.join("blobs")).chain([torch.clone()]);
    let bytes = folders.flat_map(|folder| entries(&folder)).try_fold(0, |sum, file| {
        left = left.checked_sub(1)?;
        Some(sum + file.metadata().map_or(0, |facts| if facts.is_file() { facts.len() } else { 0 }))
    });
    Held { hub: hub.display().to_string(), torch: torch.display().to_string(), bytes, offline: offline() }
}

/// A folder that is not there is empty.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
