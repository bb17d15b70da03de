//! Does the walk find what is there, and is an index used only while it is right?

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::paths::{Paths, as_path};
use super::walk::{Found, Stamp, walk};
use super::{Files, Index, index};

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

fn touch(path: &Path) -> bool {
    fs::create_dir_all(path.parent().expect("has a folder")).is_ok() && !path.is_dir() && fs::write(path, "x").is_ok()
}

fn part() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a-b", "a.jpg", "ab", "b", "B", "é", "z.png"]).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tree_is_found_as_it_was_made_in_the_order_of_its_paths(
        paths in prop::collection::vec((prop::collection::vec(part(), 0..4), "[a-c]{1,2}\\.(jpg|TIF|txt)"), 0..20),
    ) {
        let root = scratch();
        let mut images = Vec::new();
        for (folders, name) in &paths {
            let path = folders.iter().map(String::as_str).chain([name.as_str()]).collect::<Vec<_>>().join("/");
            let path = Path::new(&path).to_owned();
            if touch(&root.path().join(&path)) && !name.ends_with("txt") {
                images.push(path);
            }
        }
        images.sort();
        images.dedup();
        let found = walk(root.path()).expect("readable");
        prop_assert_eq!(found.images.iter().map(|path| as_path(path).expect("a path").to_owned()).collect::<Vec<_>>(), images);
    }

    #[test]
    fn an_index_gives_back_what_was_put_in(
        images in prop::collection::vec("[a-zé/\n ]{0,20}", 0..30),
        folders in prop::collection::vec(("[a-z/]{0,20}", any::<i64>(), any::<i64>()), 0..10),
        links in prop::collection::vec("[a-z/]{0,20}", 0..3),
    ) {
        let folder = scratch();
        let file = folder.path().join("index.safetensors");
        let mut found = Found::default();
        images.iter().for_each(|image| found.images.push(b"", image.as_bytes()));
        links.iter().for_each(|link| found.broken_links.push(b"", link.as_bytes()));
        for (path, modified, changed) in &folders {
            found.folders.push(b"", path.as_bytes());
            found.stamps.push(Stamp { modified: *modified, changed: *changed });
        }
        index::save(&file, Path::new("/the/root"), &found).expect("saved");
        prop_assert_eq!(index::load(&file, Path::new("/the/root")), Some(found));
        prop_assert_eq!(index::load(&file, Path::new("/another/root")), None);
    }
}

/// A small tree, a folder for its index, and what was found, kept as if a minute had passed.
fn kept() -> (TempDir, TempDir, Found) {
    let (root, store) = (scratch(), scratch());
    for path in ["x/1.jpg", "x/deep/er/2.jpg", "y/3.jpg", "y/notes.txt"] {
        assert!(touch(&root.path().join(path)));
    }
    let later = SystemTime::now() + Duration::from_secs(60);
    let found = walk(root.path()).expect("readable");
    assert!(index::write(store.path(), root.path(), &found, later).expect("written"));
    // The next change shall come in another tick of the file system's clock.
    std::thread::sleep(Duration::from_millis(30));
    (root, store, Found { other_files: 0, ..found })
}

#[test]
fn an_index_is_right_until_something_comes_goes_or_is_renamed() {
    type Change = fn(&Path) -> std::io::Result<()>;
    let changes: [(&str, Change); 6] = [
        ("a new file", |root| fs::write(root.join("x/deep/er/4.jpg"), "x")),
        ("a new folder", |root| fs::create_dir(root.join("x/new"))),
        ("a removed file", |root| fs::remove_file(root.join("y/3.jpg"))),
        ("a removed folder", |root| fs::remove_dir_all(root.join("x/deep"))),
        ("a renamed file", |root| fs::rename(root.join("x/1.jpg"), root.join("x/0.jpg"))),
        ("a moved folder", |root| fs::rename(root.join("x/deep"), root.join("y/deep"))),
    ];
    for (what, change) in changes {
        let (root, store, found) = kept();
        assert_eq!(index::read(store.path(), root.path()), Some(found), "before {what}");
        change(root.path()).expect(what);
        assert_eq!(index::read(store.path(), root.path()), None, "after {what}");
    }
}

#[test]
fn an_index_of_a_tree_that_is_gone_is_wrong_and_one_reached_by_another_way_is_right() {
    let (root, store, found) = kept();
    let roundabout = root.path().join("x").join("..");
    assert_eq!(index::read(store.path(), &roundabout), Some(found));
    let path = root.path().to_owned();
    drop(root);
    assert_eq!(index::read(store.path(), &path), None);
}

#[cfg(unix)]
#[test]
fn times_that_were_set_back_hide_nothing() {
    let (root, store, _) = kept();
    let folder = root.path().join("y");
    let modified = fs::metadata(&folder).and_then(|metadata| metadata.modified()).expect("has a time");
    fs::write(folder.join("4.jpg"), "x").expect("written");
    fs::File::open(&folder).and_then(|folder| folder.set_modified(modified)).expect("set back");
    assert_eq!(index::read(store.path(), root.path()), None);
}

#[cfg(unix)]
#[test]
fn a_broken_link_that_is_mended_makes_an_index_wrong() {
    let (root, store, target) = (scratch(), scratch(), scratch());
    let target = target.path().join("later.jpg");
    std::os::unix::fs::symlink(&target, root.path().join("link.jpg")).expect("linked");
    let found = walk(root.path()).expect("readable");
    assert_eq!((found.images.len(), found.broken_links.len()), (0, 1));
    let later = SystemTime::now() + Duration::from_secs(60);
    assert!(index::write(store.path(), root.path(), &found, later).expect("written"));
    assert_eq!(index::read(store.path(), root.path()), Some(found));
    assert!(touch(&target));
    assert_eq!(index::read(store.path(), root.path()), None);
}

#[test]
fn what_changed_only_now_is_not_kept() {
    let (root, store) = (scratch(), scratch());
    assert!(touch(&root.path().join("a/1.jpg")));
    let files = Files::find(root.path().to_owned(), Some(store.path()), 0).expect("images");
    assert_eq!(files.index(), &Index::Without);
    assert_eq!(fs::read_dir(store.path()).expect("readable").count(), 0);
}

#[test]
fn a_damaged_index_is_as_good_as_none_and_is_made_anew() {
    let (root, store, found) = kept();
    let file = fs::read_dir(store.path()).expect("readable").next().expect("one file").expect("readable").path();
    let good = fs::read(&file).expect("readable");
    for at in 0..good.len() {
        fs::write(&file, &good[..at]).expect("written");
        assert_eq!(index::read(store.path(), root.path()), None, "truncated at {at}");
        let mut bad = good.clone();
        bad[at] ^= 0x11;
        fs::write(&file, &bad).expect("written");
        // The name of the format is not looked at.
        if let Some(read) = index::read(store.path(), root.path()) {
            assert_eq!(read, found, "changed at {at}");
        }
    }
    // A header that is longer than the file, and one that is longer than anything.
    for length in [good.len() as u64, u64::MAX] {
        fs::write(&file, [&length.to_le_bytes(), &good[8..]].concat()).expect("written");
        assert_eq!(index::read(store.path(), root.path()), None);
    }
    let later = SystemTime::now() + Duration::from_secs(60);
    assert!(index::write(store.path(), root.path(), &found, later).expect("written"));
    assert_eq!(index::read(store.path(), root.path()), Some(found));
}

#[test]
fn a_store_that_cannot_be_written_is_named_and_the_images_are_there() {
    let (root, store) = (scratch(), scratch());
    assert!(touch(&root.path().join("a/1.jpg")));
    let blocked = store.path().join("file");
    assert!(touch(&blocked));
    std::thread::sleep(Duration::from_millis(2100)); // old enough to be kept
    let files = Files::find(root.path().to_owned(), Some(&blocked), 0).expect("images");
    let Index::Unwritten(reason) = files.index() else { panic!("written into a file: {:?}", files.index()) };
    assert!(reason.contains("file"), "{reason}");
    assert_eq!(files.len(), 1);
}

#[test]
fn classes_are_the_first_parts_when_all_images_have_one() {
    let list = |names: &[&str]| {
        let mut paths = Paths::default();
        names.iter().for_each(|name| paths.push(b"", name.as_bytes()));
        super::classes(&paths)
    };
    let (names, labels) = list(&["a/1", "a/b/2", "b/1", "b-c/1"]).expect("classes");
    assert_eq!((names, labels), (vec!["a".into(), "b".into(), "b-c".into()], vec![0, 0, 1, 2]));
    assert_eq!(list(&["a/1", "b"]), None);
}
