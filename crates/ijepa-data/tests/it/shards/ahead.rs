//! Fetching ahead: in time, no further than a window, within the limit, and only while somebody waits.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ijepa_data::loader::order;
use ijepa_data::{DataError, Dataset, LoaderConfig, Storage, TrainLoader};

use super::{files, labelled, member, open, storage, tar};
use crate::server::{Manners, Server};

const SHARDS: usize = 6;
const EACH: usize = 8;
/// Two shards.
const WINDOW: usize = 2 * EACH;

/// Batches of half a window, made one at a time: the reader is at the step that is due and nowhere else.
fn config(stop_step: u64) -> LoaderConfig {
    let (seed, skip_limit, queue) = (3, 0, 1);
    LoaderConfig {
        seed,
        batch_size: EACH,
        shuffle_window: WINDOW,
        skip_limit,
        queue,
        ..crate::loader::config(1, 0, stop_step)
    }
}

/// Shards that nobody has fetched but whose content is known, each with `padding` bytes that are no image.
fn known(root: &Path, padding: usize) -> (Server, String, Storage) {
    let content = |shard: usize| {
        let mut members = labelled(shard * EACH..(shard + 1) * EACH);
        members.push(member("padding.txt", vec![b'x'; padding]));
        (format!("{shard}.tar"), tar(&members))
    };
    let server = Server::start(Manners { ranges: true, ..Manners::default() }, (0..SHARDS).map(content));
    let spec = format!("{}/{{0..{}}}.tar", server.address(), SHARDS - 1);
    let storage = storage(root);
    drop(open(&spec, &storage).expect("it opens"));
    remove_copies(&storage, |_| true);
    (server, spec, storage)
}

fn remove_copies(storage: &Storage, remove: impl Fn(&str) -> bool) {
    for copy in files(storage.downloads.as_deref().expect("given"), ".tar") {
        if remove(&copy.to_string_lossy()) {
            fs::remove_file(copy).expect("removed");
        }
    }
}

fn fetched(data: &Dataset) -> u64 {
    let Dataset::Shards(shards) = data else { panic!("these are shards") };
    shards.fetched()
}

fn shards_of(order: &[u32]) -> BTreeSet<usize> {
    order.iter().map(|&sample| sample as usize / EACH).collect()
}

/// Waits for what other threads must bring about.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_shard_is_there_before_its_first_sample_is_asked_for() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let (server, spec, storage) = known(root.path(), 0);
    let data = Arc::new(open(&spec, &storage).expect("known"));
    let order = order(&data, 3, 0, WINDOW);
    let mut loader = TrainLoader::start(Arc::clone(&data), config(60)).expect("it starts");
    loader.next().expect("it loads").expect("a batch");
    // The second step is due; the third is the first of the second window.
    let expected = shards_of(&order[..3 * EACH]);
    assert_eq!(expected.len(), 4, "of this seed");
    eventually("the next window is fetched", || fetched(&data) == 4);
    server.forget();
    for step in 1..4 {
        let batch = loader.next().expect("nothing is asked for any more").expect("a batch");
        assert_eq!(batch.indices.len(), EACH, "step {step}");
    }
    let error = (0..4).find_map(|_| loader.next().err()).expect("the third window cannot be had");
    assert!(matches!(error, DataError::Shard { .. }) && error.to_string().contains("answered 404"), "{error}");
    assert_eq!(fetched(&data), 4);
}

#[test]
fn the_first_window_of_the_next_epoch_is_fetched_ahead_too() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let (_server, spec, storage) = known(root.path(), 0);
    let data = Arc::new(open(&spec, &storage).expect("known"));
    let steps = SHARDS as u64; // an epoch
    let mut loader = TrainLoader::start(Arc::clone(&data), config(60)).expect("it starts");
    for _ in 0..steps - 2 {
        loader.next().expect("it loads").expect("a batch");
    }
    // What the first step of the next epoch needs goes, unless the last two of this one need it.
    let last = shards_of(&order(&data, 3, 0, WINDOW)[(SHARDS - 2) * EACH..]);
    let gone = &shards_of(&order(&data, 3, 1, WINDOW)[..EACH]) - &last;
    assert!(!gone.is_empty(), "of this seed");
    eventually("all shards were fetched", || fetched(&data) == steps);
    remove_copies(&storage, |copy| gone.iter().any(|shard| copy.ends_with(&format!("-{shard}.tar"))));
    loader.next().expect("it loads").expect("the last batch but one");
    eventually("they are fetched again", || fetched(&data) == steps + gone.len() as u64);
}

#[test]
fn a_limit_of_two_windows_is_enough_to_fetch_every_shard_once_an_epoch() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let (_server, spec, storage) = known(root.path(), 0);
    let sizes = |data: &Dataset| -> Vec<u64> {
        let batches = TrainLoader::start(Arc::new(open(&spec, &storage).expect("known")), config(6));
        let mut batches = batches.expect("it starts");
        while batches.next().expect("it loads").is_some() {}
        let copies = files(storage.downloads.as_deref().expect("given"), ".tar");
        assert_eq!((copies.len(), data.len()), (SHARDS, SHARDS * EACH));
        copies.iter().map(|copy| fs::metadata(copy).expect("there").len()).collect()
    };
    let data = open(&spec, &storage).expect("known");
    let mut sizes = sizes(&data);
    sizes.sort_unstable();
    let limit = sizes[SHARDS - 4..].iter().sum();
    remove_copies(&storage, |_| true);
    let limited = Storage { download_bytes: Some(limit), ..storage.clone() };
    let data = Arc::new(open(&spec, &limited).expect("known"));
    let epochs = 5;
    let mut loader = TrainLoader::start(Arc::clone(&data), config(epochs * SHARDS as u64)).expect("it starts");
    let mut seen = Vec::new();
    while let Some(batch) = loader.next().expect("it loads") {
        seen.extend(batch.indices);
    }
    let expected = (0..epochs).flat_map(|epoch| order(&data, 3, epoch, WINDOW).to_vec());
    assert!(seen.into_iter().eq(expected.map(|index| index as usize)));
    assert!(fetched(&data) <= epochs * SHARDS as u64, "{} fetches", fetched(&data));
}

#[test]
fn dropping_the_loader_ends_what_is_fetched_ahead_and_the_next_one_takes_it_up() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let padding = 2 << 20;
    let (server, spec, storage) = known(root.path(), padding);
    let data = Arc::new(open(&spec, &storage).expect("known"));
    let order = order(&data, 3, 0, WINDOW);
    let first = shards_of(&order[..WINDOW]);
    // The reader has its own window; what is fetched ahead of it is held by the server.
    let own = first.iter().try_for_each(|&shard| data.read(shard * EACH).map(|_| ()));
    own.expect("it reads");
    let before = fetched(&data);
    server.hold(true);
    let mut loader = TrainLoader::start(Arc::clone(&data), config(60)).expect("it starts");
    loader.next().expect("it loads").expect("a batch");
    server.wait_for_one_held();
    let length = |part: &PathBuf| fs::metadata(part).map_or(0, |part| part.len());
    let parts = || files(storage.downloads.as_deref().expect("given"), ".part");
    eventually("half of a shard is there", || parts().iter().any(|part| length(part) > 0));
    drop(loader);
    server.hold(false);
    eventually("the threads end", || Arc::strong_count(&data) == 1);
    assert_eq!(fetched(&data), before);
    assert!(parts().iter().any(|part| length(part) > 0));
    assert!(parts().iter().all(|part| length(part) < padding as u64));

    let mut loader = TrainLoader::start(Arc::clone(&data), config(6)).expect("it starts");
    let mut seen = Vec::new();
    while let Some(batch) = loader.next().expect("it loads") {
        seen.extend(batch.indices);
    }
    assert!(seen.into_iter().eq(order.iter().map(|&index| index as usize)));
    assert!(server.parts() > 0, "from where it was");
}
