//! How does a repository of the Hub become a folder?
//!
//! The layout of the cache and the transfers are `hf-hub`'s; what it lacks is here: one question first, whose answer tells what
//! there is and on which terms, all files of one commit, an end to silence, and lengths that are checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};

use anyhow::Result;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::name::RepoName;
use super::{META_LICENCE, announce, online, place, room, unwritable, web};
use crate::exit::{Exit, Failure};
use crate::log::progress::Progress;

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files from this size on show their progress.
const LARGE: u64 = 1_000_000;

/// What the Hub says about a repository.
#[derive(Deserialize)]
struct Facts {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Sibling {
    #[serde(rename = "rfilename")]
    name: String,
    size: Option<u64>,
}

/// The list of shards.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// The folder of the repository's files in the cache.
pub(super) fn locate(name: &RepoName) -> Result<PathBuf> {
    let said = name.to_string();
    let cache = Cache::new(place::hub());
    if let Some(folder) = cached(&cache, name) {
        return Ok(folder);
    }
    online(&said, cache.path())?;
    let token = place::token();
    let facts = ask(name, token.as_deref())?;
    let chosen = choose(&facts).map_err(|problem| unfit(name, &problem))?;
    let api = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(place::endpoint())
        .with_token(token)
        .build()
        .map_err(|error| failure(&said, CONFIG, error))?;
    let folder = cache.repo(repo(name, &facts.sha)).pointer_path(&facts.sha);
    let fetch = Fetch { said: &said, api: &api, cache: &cache, repo: repo(name, &facts.sha), folder: &folder };
    std::fs::create_dir_all(&folder).map_err(|error| unwritable(&said, &folder, error))?;
    let sharded = chosen.iter().any(|file| file.name == INDEX);
    let parts = facts
        .siblings
        .iter()
        .filter(|file| sharded && file.name.starts_with("model-") && file.name.ends_with(".safetensors"));
    let missing = chosen.iter().copied().chain(parts).filter(|file| !folder.join(&file.name).exists());
    let needed = missing.filter_map(|file| file.size).sum();
    room(&said, &folder, needed)?;
    announce(&said, needed, cache.path(), &licence(name, &facts));
    for file in chosen {
        fetch.file(file)?;
    }
    if sharded {
        let shards =
            shards(&folder).ok_or_else(|| unfit(name, &format!("its {INDEX} names no shards that can be fetched")))?;
        for shard in shards {
            let listed = facts.siblings.iter().find(|file| file.name == shard);
            fetch.file(listed.ok_or_else(|| unfit(name, &format!("it lacks {shard}, which its {INDEX} names")))?)?;
        }
    }
    // Last, so that a name stands for a whole snapshot only.
    let named = cache.repo(repo(name, &name.revision));
    named.create_ref(&facts.sha).map_err(|error| unwritable(&said, cache.path(), error))?;
    Ok(folder)
}

fn repo(name: &RepoName, revision: &str) -> Repo {
    Repo::with_revision(name.id.clone(), RepoType::Model, revision.to_owned())
}

/// The snapshot of this revision, if the cache holds all that is needed of it.
fn cached(cache: &Cache, name: &RepoName) -> Option<PathBuf> {
    let root = cache.path().join(repo(name, &name.revision).folder_name());
    let commit = std::fs::read_to_string(root.join("refs").join(&name.revision));
    let folder = root.join("snapshots").join(commit.as_deref().map_or(name.revision.as_str(), str::trim));
    let whole = folder.join(CONFIG).exists()
        && (folder.join(WEIGHTS).exists()
            || shards(&folder).is_some_and(|shards| shards.iter().all(|shard| folder.join(shard).exists())));
    whole.then_some(folder)
}

/// The files that the index in `folder` names; none where there is no index, or one that leads out of the folder.
fn shards(folder: &Path) -> Option<BTreeSet<String>> {
    let index: Index = serde_json::from_slice(&std::fs::read(folder.join(INDEX)).ok()?).ok()?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let fine = !shards.is_empty()
        && shards.iter().all(|shard| !shard.contains(['/', '\\', ':']) && shard.ends_with(".safetensors"));
    fine.then_some(shards)
}

/// Asks the Hub what the repository holds.
fn ask(name: &RepoName, token: Option<&str>) -> Result<Facts> {
    let (said, endpoint) = (name.to_string(), place::endpoint());
    let address =
        format!("{endpoint}/api/models/{}/revision/{}?blobs=true", name.id, name.revision.replace('/', "%2F"));
    let agent = web::agent();
    let mut attempt = 0;
    let mut answer = loop {
        web::wait(attempt);
        attempt += 1;
        let request = agent.get(&address);
        let request = match token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        match request.call() {
            Ok(answer) if attempt < web::ATTEMPTS && answer.status().is_server_error() => {}
            Ok(answer) => break answer,
            Err(error) if attempt < web::ATTEMPTS && web::may_pass(&error) => {}
            Err(error) => return Err(web::unreachable(&said, &endpoint, error).into()),
        }
    };
    let status = answer.status().as_u16();
    if status != 200 {
        let because = match web::header(&answer, "x-error-code") {
            Some("RevisionNotFound") => format!("no such revision: {}", name.revision),
            Some("RepoNotFound") => format!("no such repository, or a private one: {}", name.id),
            Some(code) => code.to_owned(),
            None => return Err(web::refused(&said, &endpoint, status, Some(token.is_some())).into()),
        };
        return Err(web::refused(&said, &endpoint, status, Some(token.is_some()))
            .because(anyhow::anyhow!(because))
            .into());
    }
    let facts: Facts = answer.body_mut().read_json().map_err(|error| web::unreachable(&said, &endpoint, error))?;
    // It becomes the name of a folder.
    if facts.sha.is_empty() || !facts.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(web::unreachable(&said, &endpoint, anyhow::anyhow!("{:?} is no commit", facts.sha)).into());
    }
    Ok(facts)
}

/// The files to fetch, weights last, so that where they are all is; what is missing otherwise.
fn choose(facts: &Facts) -> Result<Vec<&Sibling>, String> {
    let find = |name: &str| facts.siblings.iter().find(|file| file.name == name);
    let weights = find(WEIGHTS).or_else(|| find(INDEX));
    match (find(CONFIG), weights) {
        (Some(config), Some(weights)) => {
            Ok([Some(config), find(PREPROCESSOR), Some(weights)].into_iter().flatten().collect())
        }
        _ => {
            let names: Vec<_> = facts.siblings.iter().map(|file| file.name.as_str()).take(12).collect();
            Err(format!("expected {CONFIG} and {WEIGHTS} (or {INDEX}), got {}", names.join(", ")))
        }
    }
}

fn unfit(name: &RepoName, problem: &str) -> Failure {
    Failure::new(Exit::Checkpoint, format!("{name} holds no weights that can be read here: {problem}"))
        .remedy("name a repository with safetensors, such as hf:facebook/ijepa_vith14_1k, or a local file or folder")
}

/// The terms of the weights. All I-JEPA weights on the Hub are copies of Meta's, whoever uploaded them.
fn licence(name: &RepoName, facts: &Facts) -> String {
    let card = facts.card.as_ref().and_then(|card| card["license"].as_str());
    match card {
        _ if name.id.to_lowercase().contains("ijepa") => META_LICENCE.to_owned(),
        Some(licence) if licence != "other" => format!("the licence of these weights is {licence}"),
        _ => "the licence of these weights: see its model card".to_owned(),
    }
}

/// Files of one commit.
struct Fetch<'f> {
    said: &'f str,
    api: &'f Api,
    cache: &'f Cache,
    repo: Repo,
    folder: &'f Path,
}

/// What the thread that downloads tells the one that waits.
enum Event {
    Size(u64),
    Bytes(u64),
    Done(Result<PathBuf, ApiError>),
}

/// `hf-hub` reports here; nobody listening any more is fine.
struct Reports(Sender<Event>);

impl hf_hub::api::Progress for Reports {
    fn init(&mut self, size: usize, _file: &str) {
        let _ = self.0.send(Event::Size(size as u64));
    }

    fn update(&mut self, size: usize) {
        let _ = self.0.send(Event::Bytes(size as u64));
    }

    fn finish(&mut self) {}
}

impl Fetch<'_> {
    /// Brings a file that is not there yet.
    fn file(&self, file: &Sibling) -> Result<()> {
        if self.folder.join(&file.name).exists() {
            return Ok(());
        }
        let mut attempt = 0;
        let path = loop {
            web::wait(attempt);
            attempt += 1;
            match self.attempt(&file.name)? {
                Ok(path) => break path,
                Err(error) if attempt < web::ATTEMPTS && passing(&error) => {}
                Err(error) => return Err(failure(self.said, &file.name, error).into()),
            }
        };
        let length = path.metadata().map_err(|error| unwritable(self.said, &path, error))?.len();
        match file.size {
            Some(expected) if expected != length => {
                // The link and what it leads to: a wrong blob would be found again.
                let blob = path.canonicalize().unwrap_or_else(|_| path.clone());
                let _ = (std::fs::remove_file(&path), std::fs::remove_file(blob));
                let problem = format!("{}: {} has {length} bytes, expected {expected}", self.said, file.name);
                Err(Failure::new(Exit::Checkpoint, problem).remedy("repeat the command").into())
            }
            _ => Ok(()),
        }
    }

    /// One download, in a thread of its own, because `hf-hub` would wait for ever on a silent server.
    fn attempt(&self, file: &str) -> Result<Result<PathBuf, ApiError>> {
        let (sender, events) = mpsc::channel();
        let (api, repo, cache, name) = (self.api.clone(), self.repo.clone(), self.cache.clone(), file.to_owned());
        std::thread::spawn(move || {
            let done = fresh(&api, &repo, &cache, &name)
                .and_then(|()| api.repo(repo).download_with_progress(&name, Reports(sender.clone())));
            let _ = sender.send(Event::Done(done));
        });
        let (mut total, mut done, mut progress) = (0, 0, None);
        loop {
            match events.recv_timeout(2 * web::PATIENCE) {
                Ok(Event::Done(result)) => return Ok(result),
                Ok(Event::Size(size)) => (total, done) = (size, 0),
                Ok(Event::Bytes(count)) => {
                    done += count;
                    if total >= LARGE {
                        progress.get_or_insert_with(|| Progress::bytes(total, done)).advance(done, file);
                    }
                }
                Err(problem) => {
                    let why = match problem {
                        RecvTimeoutError::Timeout => format!("no byte of {file} for {} s", 2 * web::PATIENCE.as_secs()),
                        RecvTimeoutError::Disconnected => format!("the download of {file} broke down"),
                    };
                    return Err(web::unreachable(self.said, &place::endpoint(), anyhow::anyhow!(why)).into());
                }
            }
        }
    }
}

/// `hf-hub` takes up a `.part` file wherever it ends, and stumbles over one that is whole or too long.
fn fresh(api: &Api, repo: &Repo, cache: &Cache, file: &str) -> Result<(), ApiError> {
    let facts = api.metadata(&api.repo(repo.clone()).url(file))?;
    let mut part = cache.repo(repo.clone()).blob_path(facts.etag());
    part.set_extension("part");
    if part.metadata().is_ok_and(|part| part.len() >= facts.size() as u64) {
        std::fs::remove_file(part)?;
    }
    Ok(())
}

fn passing(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => web::may_pass(error),
        ApiError::IoError(error) => broke_off(error),
        _ => false,
    }
}

/// Whether it is the connection that failed, and not the disk.
fn broke_off(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Other, TimedOut, UnexpectedEof};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Other | TimedOut | UnexpectedEof)
}

fn failure(said: &str, file: &str, error: ApiError) -> Failure {
    let what = format!("{said}, {file}");
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(status) => {
                web::refused(&what, &place::endpoint(), status, Some(place::token().is_some()))
            }
            error => web::unreachable(&what, &place::endpoint(), error),
        },
        ApiError::IoError(error) if broke_off(&error) => web::unreachable(&what, &place::endpoint(), error),
        ApiError::IoError(error) => unwritable(&what, &place::hub(), error),
        ApiError::LockAcquisition(path) => Failure::new(
            Exit::Checkpoint,
            format!("{what}: another process is downloading it ({} is locked)", path.display()),
        )
        .remedy("wait until it is done"),
        error => web::unreachable(&what, &place::endpoint(), error),
    }
}
