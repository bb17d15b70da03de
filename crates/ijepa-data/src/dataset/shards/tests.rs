//! What only a short patience can show: servers that fail for good, and downloads that are taken up again.

use std::time::{Duration, Instant};

use super::*;
use server::{Manners, Server};

#[path = "../../../tests/it/server.rs"]
#[expect(dead_code, reason = "the tests of the loader use the rest")]
mod server;

const SHORT: Patience = Patience {
    attempts: 4,
    wait: Duration::from_millis(2),
    wait_max: Duration::from_millis(10),
    silence: Duration::from_secs(5),
};

/// A tar of one image with a kibibyte for each of `kib`.
fn shard(kib: usize) -> Vec<u8> {
    let content: Vec<u8> = (0..kib << 10).map(|k| (k / 3) as u8).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "a.png", content.as_slice()).expect("written to memory");
    tar.into_inner().expect("written to memory")
}

fn open(server: &Server, folder: &Path) -> Result<Shards, DataError> {
    let storage = Storage { downloads: Some(folder.to_owned()), ..Storage::default() };
    Shards::open(&[Place::Web(format!("{}/a.tar", server.address()))], &storage, SHORT)
}

#[test]
fn a_server_that_always_fails_gives_an_error_in_bounded_time() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for status in [429, 500, 503] {
        let server = Server::start(Manners { status: Some(status), ..Manners::default() }, []);
        let begun = Instant::now();
        let error = open(&server, folder.path()).expect_err("it fails").to_string();
        assert!(error.contains(&format!("answered {status}")) && error.contains("4 attempts"), "{error}");
        assert_eq!(server.connections(), 4);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    for status in [401, 403, 404, 410] {
        let server = Server::start(Manners { status: Some(status), ..Manners::default() }, []);
        assert!(open(&server, folder.path()).is_err());
        assert_eq!(server.connections(), 1, "{status}");
    }
    let gone = Server::start(Manners::default(), []);
    let address = format!("{}/a.tar", gone.address());
    drop(gone);
    let places = [Place::Web(address)];
    assert!(
        Shards::open(&places, &Storage { downloads: Some(folder.path().into()), ..Storage::default() }, SHORT).is_err()
    );
}

#[test]
fn what_came_before_a_cut_is_not_sent_again_where_parts_are_served() {
    let files = || [("a.tar".to_owned(), shard(3000))];
    let patient = Server::start(Manners { ranges: true, cuts_every: Some(2), ..Manners::default() }, files());
    let folder = tempfile::tempdir().expect("a scratch folder");
    let shards = open(&patient, folder.path()).expect("it gets there");
    assert_eq!(shards.read(0).expect("it reads").len(), 3000 << 10);
    assert!(patient.parts() > 0);
    assert!(patient.bytes() < (3000 << 10) * 3 / 2, "nothing is sent twice");

    let hopeless = Server::start(Manners { ranges: false, cuts_every: Some(1), ..Manners::default() }, files());
    let folder = tempfile::tempdir().expect("a scratch folder");
    let begun = Instant::now();
    assert!(open(&hopeless, folder.path()).is_err());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_download_of_an_earlier_run_is_taken_up_again() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let whole = shard(1000);
    let server = Server::start(Manners { ranges: true, ..Manners::default() }, [("a.tar".to_owned(), whole.clone())]);
    drop(open(&server, folder.path()).expect("it opens"));
    let copies = fs::read_dir(folder.path()).expect("there").flatten().map(|entry| entry.path());
    let copy = copies.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "tar")).expect("a copy");
    fs::remove_file(&copy).expect("removed");
    fs::write(copy.with_extension("part"), &whole[..600_000]).expect("written");
    let before = server.bytes();
    let shards = open(&server, folder.path()).expect("it opens");
    assert_eq!(shards.read(0).expect("it reads").len(), 1000 << 10);
    assert_eq!(server.bytes() - before, 2 + whole.len() as u64 - 600_000);
    assert_eq!(fs::read(&copy).expect("there"), whole);
}

#[test]
fn another_shard_of_the_same_length_is_not_taken_for_the_first() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let server = Server::start(Manners::default(), [("a.tar".to_owned(), shard(10))]);
    let shards = open(&server, folder.path()).expect("it opens");
    let mut other = shard(10);
    let mut header = tar::Header::from_byte_slice(&other[..512]).clone();
    header.set_path("b.png").expect("short");
    header.set_cksum();
    other[..512].copy_from_slice(header.as_bytes());
    server.replace("a.tar", other);
    assert!(shards.read(0).is_ok(), "the copy is there");
    for entry in fs::read_dir(folder.path()).expect("there").flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "tar") {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
    let error = shards.read(0).expect_err("another").to_string();
    assert!(error.contains("a.tar: holds something else"), "{error}");
}

#[test]
fn a_reader_keeps_its_copy_while_it_makes_room_for_others() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let names = ["a.tar", "b.tar"];
    let server = Server::start(Manners::default(), names.map(|name| (name.to_owned(), shard(100))));
    let places = names.map(|name| Place::Web(format!("{}/{name}", server.address())));
    let limit = Some(shard(100).len() as u64 * 3 / 2);
    let storage = Storage { downloads: Some(folder.path().into()), download_bytes: limit, ..Storage::default() };
    let shards = Shards::open(&places, &storage, SHORT).expect("it opens");
    let Source::Copied(copy) = &shards.shards[0].source else { panic!("it has to be fetched") };
    let held = shards.copies.open(copy, &shards.shards[0].index).expect("fetched");
    shards.read(1).expect("fetched in its place");
    let mut bytes = vec![0; 100 << 10];
    read_at(&held, &mut bytes, shards.shards[0].index.entries[0].offset).expect("still there");
    assert_eq!(bytes, shards.read(1).expect("it reads"));
}
