//! Shards: the same samples however they lie, nothing lost on the way, within limits, and no damage in silence.

mod ahead;
mod damage;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use ijepa_data::{DataError, Dataset, LoaderConfig, Split, Storage, Stored, TrainLoader};

use crate::server::{Manners, Server};

/// A file in a tar.
type Member = (String, Vec<u8>);

/// An image file: a PNG or a JPEG that no other number has. Each bit of the number is a square.
fn photo(number: usize) -> Vec<u8> {
    let square = |x: u32, y: u32| if number >> (x / 8 + y / 8 * 4) & 1 == 1 { 240 } else { 20 };
    let pixels = image::RgbImage::from_fn(32, 24, |x, y| image::Rgb([square(x, y), (x * 7) as u8, (y * 5) as u8]));
    let format = if number.is_multiple_of(3) { image::ImageFormat::Png } else { image::ImageFormat::Jpeg };
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, format).expect("written to memory");
    bytes.into_inner()
}

fn ending(number: usize) -> &'static str {
    if number.is_multiple_of(3) { "png" } else { "jpg" }
}

/// Samples with a label, as WebDataset's writer orders their members.
fn labelled(numbers: std::ops::Range<usize>) -> Vec<Member> {
    let sample = |number: usize| {
        let class = (format!("photos/{number:04}.cls"), (number % 5).to_string().into_bytes());
        [class, (format!("photos/{number:04}.{}", ending(number)), photo(number))]
    };
    numbers.flat_map(sample).collect()
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        let field = &mut header.as_gnu_mut().expect("it is one").name;
        if let Some(field) = field.get_mut(..name.len()) {
            // As it stands: the builder would mend `./` and refuse `../`.
            field.copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, content.as_slice()).expect("written to memory");
        } else {
            tar.append_data(&mut header, name, content.as_slice()).expect("written to memory");
        }
    }
    tar.into_inner().expect("written to memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("written to memory");
    packed.finish().expect("written to memory")
}

/// `count` shards of `each` samples as `FOLDER/name-{000..}.ENDING`, and the pattern that names them.
fn write_shards(folder: &Path, ending: &str, count: usize, each: usize) -> String {
    for shard in 0..count {
        let bytes = tar(&labelled(shard * each..(shard + 1) * each));
        let bytes = if ending == "tar" { bytes } else { gzip(&bytes) };
        fs::write(folder.join(format!("name-{shard:03}.{ending}")), bytes).expect("written");
    }
    format!("{}/name-{{000..{:03}}}.{ending}", folder.display(), count - 1)
}

/// Everything that a data set may keep goes into `folder`.
fn storage(folder: &Path) -> Storage {
    Storage { index: Some(folder.join("index")), downloads: Some(folder.join("copies")), ..Storage::default() }
}

fn open(spec: &str, storage: &Storage) -> Result<Dataset, DataError> {
    Dataset::open_with(spec, Split::Train, 0, storage)
}

fn encoded(data: &Dataset, index: usize) -> Vec<u8> {
    match data.read(index).expect("it reads") {
        Stored::Encoded(bytes) => bytes,
        Stored::Ready(_) => panic!("shards hold image files"),
    }
}

/// The label of every image, by its bytes.
fn content(data: &Dataset) -> BTreeMap<Vec<u8>, Option<u32>> {
    let labels = data.labels();
    let label = |index: usize| labels.as_ref().map(|labels| labels[index]);
    let content: BTreeMap<_, _> = (0..data.len()).map(|index| (encoded(data, index), label(index))).collect();
    assert_eq!(content.len(), data.len(), "all images differ");
    content
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

#[test]
fn a_tree_tars_packed_tars_and_downloads_are_the_same_samples() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let tree = root.path().join("tree");
    for number in 0..30 {
        let folder = tree.join((number % 5).to_string());
        fs::create_dir_all(&folder).expect("created");
        fs::write(folder.join(format!("{number}.{}", ending(number))), photo(number)).expect("written");
    }
    let storage = storage(root.path());
    let expected = content(&open(tree.to_str().expect("UTF-8"), &storage).expect("a tree"));

    let plain = open(&write_shards(root.path(), "tar", 3, 10), &storage).expect("tars");
    assert_eq!((content(&plain), plain.chunks()), (expected.clone(), vec![]));
    assert_eq!(plain.name(11), format!("{}/name-001.tar: photos/0011.jpg", root.path().display()));
    assert_eq!(files(&root.path().join("copies"), ""), Vec::<PathBuf>::new(), "plain shards are read where they lie");

    for ending in ["tar.gz", "tgz"] {
        let packed = open(&write_shards(root.path(), ending, 3, 10), &storage).expect("packed tars");
        assert_eq!((content(&packed), packed.chunks()), (expected.clone(), vec![10, 10, 10]));
    }

    let shard = |name: &str| (name.to_owned(), fs::read(root.path().join(name)).expect("there"));
    let names = ["name-000.tar", "name-001.tar.gz", "name-002.tar"];
    for ranges in [true, false] {
        let server = Server::start(Manners { ranges, ..Manners::default() }, names.map(shard));
        let spec = format!("{}/{{name-000.tar,name-001.tar.gz,name-002.tar}}?key=secret", server.address());
        let web = open(&spec, &storage).expect("downloads");
        assert_eq!((content(&web), web.chunks()), (expected.clone(), vec![10, 10, 10]));
        assert_eq!(web.name(0), format!("{}/name-000.tar: photos/0000.png", server.address()));
    }
}

#[test]
fn whoever_opens_shards_hears_how_many_are_open() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let spec = write_shards(root.path(), "tgz", 4, 3);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let opened = move |done, total| hearing.lock().expect("no thread panics").push((done, total));
    open(&spec, &Storage { opened: Some(Arc::new(opened)), ..storage(root.path()) }).expect("packed tars");
    let mut heard = heard.lock().expect("no thread panics").clone();
    heard.sort_unstable();
    assert_eq!(heard, [(1, 4), (2, 4), (3, 4), (4, 4)]);
}

#[test]
fn a_server_that_drops_every_fifth_connection_loses_nothing() {
    let root = tempfile::tempdir().expect("a scratch folder");
    write_shards(root.path(), "tar", 8, 100);
    let expected =
        content(&open(&format!("{}/name-{{000..007}}.tar", root.path().display()), &Storage::default()).expect("tars"));
    for ranges in [true, false] {
        let shards = (0..8).map(|shard| format!("name-{shard:03}.tar"));
        let shards = shards.map(|name| (name.clone(), fs::read(root.path().join(&name)).expect("there")));
        let server = Server::start(Manners { ranges, cuts_every: Some(5), ..Manners::default() }, shards);
        let storage = storage(&root.path().join(ranges.to_string()));
        let data = open(&format!("{}/name-{{000..007}}.tar", server.address()), &storage).expect("it gets there");
        assert_eq!(content(&data), expected);
        assert!(server.connections() > 16, "some were dropped");
        assert!(ranges || server.parts() == 0);
        assert_eq!(files(&storage.downloads.expect("given"), "part"), Vec::<PathBuf>::new());
    }
}

#[test]
fn what_is_not_at_the_address_is_an_error_at_once_that_names_it_without_its_key() {
    let server = Server::start(Manners::default(), []);
    let root = tempfile::tempdir().expect("a scratch folder");
    let error = open(&format!("{}/gone.tar?key=secret", server.address()), &storage(root.path())).expect_err("404");
    let error = error.to_string();
    assert!(error.contains("/gone.tar answered 404") && !error.contains("secret"), "{error}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn shards_are_indexed_once_and_anew_when_they_changed_or_the_index_is_damaged() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let spec = write_shards(root.path(), "tar", 1, 6);
    let (shard, storage) = (root.path().join("name-000.tar"), storage(root.path()));
    let first = content(&open(&spec, &storage).expect("a tar"));
    let kept = files(&root.path().join("index"), ".shard");
    assert_eq!(kept.len(), 1);

    // Of the same length and age, it is not read again: else its broken header would be an error.
    let (good, time) =
        (fs::read(&shard).expect("there"), fs::metadata(&shard).expect("there").modified().expect("known"));
    let mut broken = good.clone();
    broken[0] ^= 1;
    fs::write(&shard, &broken).expect("written");
    fs::File::options().write(true).open(&shard).expect("there").set_modified(time).expect("set");
    assert_eq!(content(&open(&spec, &storage).expect("known")), first);

    let mut damaged = fs::read(&kept[0]).expect("there");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 16;
    fs::write(&kept[0], damaged).expect("written");
    assert!(open(&spec, &storage).expect_err("read again").to_string().contains("name-000.tar"));

    fs::write(&shard, tar(&labelled(100..103))).expect("written");
    assert_eq!(open(&spec, &storage).expect("another tar").len(), 3);
    assert_eq!(files(&root.path().join("index"), "").len(), 1);
}

#[test]
fn downloads_are_asked_for_again_only_when_the_server_has_something_else() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let storage = storage(root.path());
    let shard = |numbers| [("a.tar".to_owned(), tar(&labelled(numbers)))];
    let server = Server::start(Manners { ranges: true, ..Manners::default() }, shard(0..5));
    let spec = format!("{}/a.tar", server.address());
    let data = open(&spec, &storage).expect("downloaded");
    let (first, sent) = (content(&data), server.bytes());
    assert_eq!(content(&open(&spec, &storage).expect("known")), first);
    assert_eq!(server.bytes(), sent + 2, "the first two bytes tell what it is");

    server.replace("a.tar", tar(&labelled(7..12)));
    let other = content(&open(&spec, &storage).expect("downloaded anew"));
    assert!(other.len() == 5 && other != first);

    // What was opened before keeps its copy; without it, the new content is not taken for the old one.
    assert_eq!(content(&data), first);
    files(&root.path().join("copies"), ".tar").iter().for_each(|copy| fs::remove_file(copy).expect("removed"));
    let error = data.read(0).expect_err("gone").to_string();
    assert!(error.contains("a.tar") && error.contains("again"), "{error}");
}

#[test]
fn the_limit_of_the_copies_is_held_while_several_threads_read() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let packed = write_shards(root.path(), "tgz", 5, 12);
    write_shards(root.path(), "tar", 5, 12);
    let shards = (0..5).map(|shard| format!("name-{shard:03}.tar"));
    let shards: Vec<Member> =
        shards.map(|name| (name.clone(), fs::read(root.path().join(&name)).expect("there"))).collect();
    let largest = shards.iter().map(|(_, bytes)| bytes.len() as u64).max().expect("some");
    let server = Server::start(Manners { ranges: true, ..Manners::default() }, shards);
    let expected =
        content(&open(&format!("{}/name-{{000..004}}.tar", root.path().display()), &Storage::default()).expect("tars"));
    for (spec, folder) in [(packed, "packed"), (format!("{}/name-{{000..004}}.tar", server.address()), "web")] {
        let limit = largest * 5 / 2;
        let copies = root.path().join(folder);
        let storage = Storage { downloads: Some(copies.clone()), download_bytes: Some(limit), ..Storage::default() };
        let look =
            || files(&copies, "").iter().filter_map(|file| file.metadata().ok()).map(|facts| facts.len()).sum::<u64>();
        // One look may count a file before it is removed and another after it took its place.
        let held = || (0..8).map(|_| look()).min().unwrap_or_default();
        let (data, done) = (open(&spec, &storage).expect("it opens"), AtomicBool::new(false));
        let index: u64 = files(&copies, ".shard").iter().map(|file| file.metadata().expect("there").len()).sum();
        assert!(held() <= limit + index);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|thread| {
                    let (data, expected) = (&data, &expected);
                    scope.spawn(move || {
                        for step in 0..60 {
                            let index = (step * 17 + thread * 13) % data.len();
                            assert!(expected.contains_key(&encoded(data, index)));
                        }
                    })
                })
                .collect();
            let watcher = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::SeqCst) {
                    most = held().max(most);
                }
                most
            });
            let read: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            // Before anything is claimed, or the watcher would look for ever.
            done.store(true, Ordering::SeqCst);
            read.into_iter().for_each(|reader| reader.expect("no reader fails"));
            let most = watcher.join().expect("it only looks");
            assert!(most <= limit + index, "{folder}: {most} bytes with a limit of {limit} and an index of {index}");
        });
        let Dataset::Shards(shards) = &data else { panic!("these are shards") };
        assert!(shards.fetched() > 5, "two of five shards fit");
        assert_eq!(content(&data), expected);

        let folder = Some(root.path().join("small"));
        let small = Storage { download_bytes: Some(largest / 2), downloads: folder, ..Storage::default() };
        let error = open(&spec, &small).expect_err("no shard fits").to_string();
        assert!(error.contains("name-00") && error.contains("raise the limit"), "{error}");
    }
}

#[test]
fn shards_in_use_by_many_threads_are_fetched_once() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let storage = storage(root.path());
    let spec = write_shards(root.path(), "tar.gz", 2, 8);
    drop(open(&spec, &storage).expect("indexed"));
    files(&root.path().join("copies"), ".tar").iter().for_each(|copy| fs::remove_file(copy).expect("removed"));
    let data = open(&spec, &storage).expect("known");
    std::thread::scope(|scope| {
        (0..8).for_each(|thread| {
            drop(scope.spawn({
                let data = &data;
                move || encoded(data, thread * 2)
            }))
        });
    });
    let Dataset::Shards(shards) = &data else { panic!("these are shards") };
    assert_eq!(shards.fetched(), 2);
}

fn config(rank: usize, world: usize, start_step: u64, stop_step: u64) -> LoaderConfig {
    LoaderConfig {
        seed: 3,
        batch_size: 4 * world,
        rank,
        world,
        shuffle_window: 16,
        skip_limit: 0,
        ..crate::loader::config(2, start_step, stop_step)
    }
}

fn seen(data: &Arc<Dataset>, config: LoaderConfig) -> Vec<Vec<usize>> {
    let mut loader = TrainLoader::start(Arc::clone(data), config).expect("it starts");
    let mut batches = Vec::new();
    while let Some(batch) = loader.next().expect("it loads") {
        batches.push(batch.indices);
    }
    batches
}

#[test]
fn two_ranks_see_disjoint_halves_of_packed_shards() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let storage = storage(root.path());
    let data = Arc::new(open(&write_shards(root.path(), "tgz", 4, 10), &storage).expect("packed tars"));
    let (first, second) = (seen(&data, config(0, 2, 0, 5)).concat(), seen(&data, config(1, 2, 0, 5)).concat());
    assert_eq!((first.len(), second.len()), (20, 20));
    let mut both = [first, second].concat();
    both.sort_unstable();
    assert_eq!(both, (0..40).collect::<Vec<_>>());
}

#[test]
fn a_loader_started_in_mid_epoch_sees_exactly_the_rest() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let storage = storage(root.path());
    let data = Arc::new(open(&write_shards(root.path(), "tgz", 4, 10), &storage).expect("packed tars"));
    let whole = seen(&data, config(0, 1, 0, 20));
    assert_eq!(seen(&data, config(0, 1, 4, 20)), whole[4..]);
    let mut epoch = whole[..10].concat();
    epoch.sort_unstable();
    assert_eq!(epoch, (0..40).collect::<Vec<_>>());
}

#[test]
fn a_shard_that_cannot_be_had_ends_the_loader_instead_of_being_replaced() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let storage = storage(root.path());
    let data = Arc::new(open(&write_shards(root.path(), "tgz", 2, 10), &storage).expect("packed tars"));
    fs::remove_file(root.path().join("name-001.tgz")).expect("removed");
    files(&root.path().join("copies"), ".tar").iter().for_each(|copy| fs::remove_file(copy).expect("removed"));
    let mut loader =
        TrainLoader::start(data, LoaderConfig { skip_limit: 1000, ..config(0, 1, 0, 5) }).expect("it starts");
    let error = loop {
        match loader.next() {
            Ok(batch) => assert!(batch.is_some(), "half of the samples are gone"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DataError::Shard { .. }) && error.to_string().contains("name-001.tgz"), "{error}");
}

fn one_shard(members: &[Member]) -> Result<Dataset, DataError> {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("one.tar");
    fs::write(&path, tar(members)).expect("written");
    let data = open(path.to_str().expect("UTF-8"), &Storage::default());
    // The file stays open as long as it is read.
    if let Ok(data) = &data {
        data.read(0).expect("it reads");
    }
    data
}

fn member(name: &str, content: impl AsRef<[u8]>) -> Member {
    (name.to_owned(), content.as_ref().to_vec())
}

fn image_names(data: &Dataset) -> Vec<String> {
    (0..data.len()).map(|index| data.name(index).split_once(": ").expect("shard and member").1.to_owned()).collect()
}

#[test]
fn members_that_follow_one_another_with_one_key_are_a_sample() {
    let data = one_shard(&[
        member("a.depth.png", "depth"),
        member("a.JPG", "first"),
        member("a.webp", "second"),
        member("a.txt", "a caption"),
        member("b/a.tiff", "another folder"),
        member("b.x/c", "no dot"),
        member("README.md", "no image"),
        member("d.cls", "3"),
        member("b/a.bmp", "the same key, but not one after the other"),
        member("./e.v2.GIF", "an ending in parts"),
        member(".hidden.jpg", "not there"),
        member("../../escape.jpg", "only a name"),
    ]);
    let data = data.expect("it opens");
    assert_eq!(image_names(&data), ["a.JPG", "b/a.tiff", "b/a.bmp", "./e.v2.GIF", "../../escape.jpg"]);
    let Dataset::Shards(shards) = &data else { panic!("these are shards") };
    assert_eq!((shards.without_image(), shards.images_beside()), (2, 2));
    assert_eq!((data.labels(), data.classes()), (None, None));
    assert_eq!(encoded(&data, 0), b"first");
}

#[test]
fn labels_come_from_numbers_and_all_samples_have_one_or_none_has() {
    let labels = |members: &[Member]| one_shard(members).map(|data| data.labels());
    let both = [member("a.cls", "7\n"), member("a.json", r#"{"label": 1}"#), member("a.png", "x")];
    let json = [member("b.png", "x"), member("b.json", r#"{"caption": "c", "cls": 4}"#)];
    assert_eq!(labels(&[both.as_slice(), &json].concat()).expect("labels"), Some(vec![7, 4]));
    for silent in [r#"{"label": "cat"}"#, r#"{"label": -1}"#, r#"{"label": NaN}"#, "{}", "not JSON"] {
        let silent = [member("c.png", "x"), member("c.json", silent)];
        assert_eq!(labels(&[both.as_slice(), &silent].concat()).expect("no label"), None);
    }
    assert_eq!(labels(&[member("c.png", "x"), member("c.cls", "-1")]).expect("no label"), None);
    for wrong in ["cat", "", "1.5", "99999999999", &"1".repeat(100)] {
        let error = labels(&[member("a/c.png", "x"), member("a/c.cls", wrong)]).expect_err(wrong).to_string();
        assert!(error.contains("one.tar: a/c.cls") && error.contains("class number"), "{error}");
    }
}

#[test]
fn classes_are_named_by_a_list_in_a_shard_or_beside_it() {
    let sample = [member("a.cls", "1"), member("a.png", "x")];
    let inside = [member("classes.txt", "cat\ndog\n"), sample[0].clone(), sample[1].clone()];
    assert_eq!(one_shard(&inside).expect("names").classes(), Some(["cat".to_owned(), "dog".to_owned()].as_slice()));
    let short = [member("./classes.txt", "cat\n"), sample[0].clone(), sample[1].clone()];
    let error = one_shard(&short).expect_err("no name for 1").to_string();
    assert!(error.contains("1 names") && error.contains("label 1"), "{error}");

    let root = tempfile::tempdir().expect("a scratch folder");
    fs::write(root.path().join("x.tar"), tar(&sample)).expect("written");
    fs::write(root.path().join("classes.txt"), "hen\ncock").expect("written");
    let data = open(root.path().to_str().expect("UTF-8"), &Storage::default()).expect("a folder of shards");
    assert_eq!(data.classes(), Some(["hen".to_owned(), "cock".to_owned()].as_slice()));
}

#[test]
fn a_folder_of_shards_is_split_by_folders_or_by_names_and_a_tree_stays_a_tree() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let write = |name: &str, numbers| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("created");
        fs::write(path, tar(&labelled(numbers))).expect("written");
    };
    let count = |folder: &str, split| {
        let path = root.path().join(folder);
        Dataset::open(path.to_str().expect("UTF-8"), split, 0)
            .map(|data| (data.len(), matches!(data, Dataset::Shards(_))))
    };
    write("by-folder/train/1.tar", 0..4);
    write("by-folder/train/0.tar", 4..6);
    write("by-folder/val/0.tar", 6..9);
    assert_eq!(count("by-folder", Split::Train).expect("train"), (6, true));
    assert_eq!(count("by-folder", Split::Val).expect("val"), (3, true));
    write("by-name/set-train-0.tar", 0..4);
    write("by-name/set-val-0.tar", 4..6);
    assert_eq!(count("by-name", Split::Train).expect("train"), (4, true));
    assert_eq!(count("by-name", Split::Val).expect("val"), (2, true));
    write("by-name/more.tar", 6..7);
    assert!(count("by-name", Split::Train).expect_err("which?").to_string().contains("more.tar"));
    write("alike/b.tar", 0..4);
    write("alike/a.tar", 4..6);
    assert_eq!(count("alike", Split::Val).expect("all"), (6, true));
    fs::write(root.path().join("alike/a.tar.gz"), gzip(&tar(&labelled(4..6)))).expect("written");
    assert!(count("alike", Split::Train).expect_err("twice").to_string().contains("a.tar.gz"));
    write("tree/backup.tar", 0..4);
    fs::create_dir_all(root.path().join("tree/cats")).expect("created");
    assert_eq!(count("tree", Split::Train).expect("no image beside"), (4, true));
    fs::write(root.path().join("tree/cats/1.png"), photo(0)).expect("written");
    assert_eq!(count("tree", Split::Train).expect("a tree"), (1, false));
}

#[test]
fn long_names_of_gnu_and_pax_are_read() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let long = format!("{}/{}.jpg", "folder".repeat(20), "n".repeat(120));
    let gnu = one_shard(&[member(&long, "x")]).expect("GNU");
    assert_eq!(image_names(&gnu), [long.as_str()]);

    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("path", long.as_bytes()), ("size", b"5".as_slice()), ("comment", b"=".as_slice())])
        .expect("written to memory");
    let mut header = tar::Header::new_ustar();
    header.set_path("short.txt").expect("short");
    header.set_size(0); // what the records say counts
    header.set_cksum();
    let mut bytes = pax.into_inner().expect("written to memory");
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(header.as_bytes());
    bytes.extend([b"hello".as_slice(), &[0; 507], &tar(&[member("z.png", "z")])].concat());
    let path = root.path().join("pax.tar");
    fs::write(&path, bytes).expect("written");
    let data = open(path.to_str().expect("UTF-8"), &Storage::default()).expect("pax");
    assert_eq!(image_names(&data), [long.as_str(), "z.png"]);
    assert_eq!((encoded(&data, 0), encoded(&data, 1)), (b"hello".to_vec(), b"z".to_vec()));
}
