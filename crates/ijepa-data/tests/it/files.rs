//! Image files: what a list says and what is wrong with it, and a large tree that is opened again.

use std::path::Path;
use std::time::{Duration, Instant};

use ijepa_data::dataset::{Files, Index};
use ijepa_data::{Dataset, Split, Storage};
use proptest::prelude::*;

fn touch(path: &Path) {
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("created");
    std::fs::write(path, "x").expect("written");
}

/// A folder with these files and a list of this content, and what opening the list gives.
struct Listed {
    root: tempfile::TempDir,
    opened: Result<Dataset, String>,
}

fn listed(files: &[&str], list: impl AsRef<[u8]>) -> Listed {
    let root = tempfile::tempdir().expect("a scratch folder");
    files.iter().for_each(|file| touch(&root.path().join(file)));
    let path = root.path().join("list.txt");
    std::fs::write(&path, list).expect("written");
    let opened = Dataset::open(path.to_str().expect("UTF-8"), Split::Train, 0).map_err(|error| error.to_string());
    Listed { root, opened }
}

impl Listed {
    fn dataset(&self) -> &Dataset {
        self.opened.as_ref().expect("a list of images")
    }

    fn names(&self) -> Vec<String> {
        let prefix = format!("{}/", self.root.path().display()).replace('\\', "/");
        let name = |index| self.dataset().name(index).replace('\\', "/").replacen(&prefix, "", 1);
        (0..self.dataset().len()).map(name).collect()
    }

    fn error(&self) -> &str {
        self.opened.as_ref().expect_err("refused")
    }
}

#[test]
fn a_list_names_images_in_its_own_order() {
    let list = listed(&["b.jpg", "sub/a.png"], "\u{feff}# two images\r\n\r\nsub/a.png\r\n  b.jpg  \r\nb.jpg");
    assert_eq!(list.names(), ["sub/a.png", "b.jpg", "b.jpg"]);
    assert_eq!((list.dataset().labels(), list.dataset().classes()), (None, None));
}

#[test]
fn paths_may_be_absolute() {
    let elsewhere = tempfile::tempdir().expect("a scratch folder");
    let path = elsewhere.path().join("a.jpg");
    touch(&path);
    let list = listed(&[], format!("{}\tx\n", path.display()));
    assert_eq!(list.dataset().name(0), path.display().to_string());
}

#[test]
fn labels_are_numbers_when_all_are_and_names_otherwise() {
    let files = ["a.jpg", "b.jpg", "c.jpg"];
    let list = listed(&files, "a.jpg\t7\nb.jpg\t007\nc.jpg\t1");
    assert_eq!((list.dataset().labels(), list.dataset().classes()), (Some(vec![7, 7, 1]), None));
    let list = listed(&files, "a.jpg,zebra\nb.jpg, ant \nc.jpg,zebra");
    assert_eq!(list.dataset().labels(), Some(vec![1, 0, 1]));
    assert_eq!(list.dataset().classes(), Some(["ant".to_owned(), "zebra".to_owned()].as_slice()));
    // As Caffe has it, and a table with a heading.
    let list = listed(&files, "a.jpg 3\nb.jpg 0\n");
    assert_eq!(list.dataset().labels(), Some(vec![3, 0]));
    let list = listed(&files, "path,label\na.jpg,5\n");
    assert_eq!((list.names(), list.dataset().labels()), (vec!["a.jpg".to_owned()], Some(vec![5])));
}

#[test]
fn names_may_hold_commas_and_blanks() {
    let list = listed(&["a, b.jpg", "c.jpg d.png", "no ending"], "a, b.jpg\nc.jpg d.png\nno ending");
    assert_eq!(list.names(), ["a, b.jpg", "c.jpg d.png", "no ending"]);
    let list =
        listed(&["a, b.jpg", "c.jpg d.png", "no ending"], "a, b.jpg,golden retriever\nc.jpg d.png 7\nno ending,x");
    assert_eq!(list.names(), ["a, b.jpg", "c.jpg d.png", "no ending"]);
    assert_eq!(list.dataset().classes().map(<[String]>::concat).as_deref(), Some("7golden retrieverx"));
}

#[cfg(unix)]
#[test]
fn names_need_not_be_unicode() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().expect("a scratch folder");
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9/b\xff.jpg");
    touch(&root.path().join(name));
    let list = root.path().join("list.lst");
    std::fs::write(&list, b"caf\xe9/b\xff.jpg\tx\n").expect("written");
    let files = Files::open_list(&list, Split::Train).expect("a list");
    assert_eq!(files.path(0), root.path().join(name));
    let files = Files::open(root.path(), Split::Train, None).expect("a tree");
    assert_eq!(files.path(0), root.path().join(name));
}

#[test]
fn names_of_a_published_subset_lie_in_their_class_folders() {
    let subset = "n02_7.JPEG\nn01_3.JPEG\nn01_9.JPEG\n";
    for folder in ["", "train/"] {
        let files = ["n01/n01_3.JPEG", "n01/n01_9.JPEG", "n02/n02_7.JPEG"].map(|file| format!("{folder}{file}"));
        let list = listed(&files.each_ref().map(String::as_str), subset);
        assert_eq!(list.names(), [2, 0, 1].map(|file| files[file].as_str()));
        assert_eq!(list.dataset().labels(), Some(vec![1, 0, 0]));
        assert_eq!(list.dataset().classes(), Some(["n01".to_owned(), "n02".to_owned()].as_slice()));
    }
    // Where the plain path is there, it is meant.
    let list = listed(&["n01_3.JPEG", "n01/n01_3.JPEG"], "n01_3.JPEG\n");
    assert_eq!((list.names(), list.dataset().labels()), (vec!["n01_3.JPEG".to_owned()], None));
    let list = listed(&["n01/n01_3.JPEG"], "n01_3.JPEG\nn01_3.JPEG\n".repeat(4) + "plain.JPEG\n");
    assert!(list.error().contains("line 9") && list.error().contains("plain.JPEG"), "{}", list.error());
}

#[test]
fn a_missing_file_is_named_with_its_line_at_the_beginning_and_is_unreadable_later() {
    let list = listed(&["a.jpg"], "# head\na.jpg\ngone.jpg\n");
    for hint in ["list.txt", "line 3", "gone.jpg"] {
        assert!(list.error().contains(hint), "{}", list.error());
    }
    let list = listed(&[], "sub/gone.jpg\n");
    assert!(list.error().contains("line 1") && list.error().contains("sub/gone.jpg"), "{}", list.error());
    let list = listed(&["a.jpg"], "a.jpg\n".repeat(20) + "gone.jpg\n");
    assert_eq!(list.dataset().len(), 21);
    let error = list.dataset().read(20).expect_err("not there").to_string();
    assert!(error.contains("gone.jpg"), "{error}");
}

#[test]
fn what_is_no_list_is_refused() {
    let long = [b"a.jpg\n".as_slice(), &[b'x'; 1 << 17]].concat();
    let cases: [(&[u8], &str); 9] = [
        (b"", "empty"),
        (b"# nothing\n\n", "empty"),
        (b"a\0.jpg\n", "zero byte"),
        (b"\xff\xfea\0.\0j\0p\0g\0\n\0", "zero byte"), // UTF-16
        (&long, "line 2: too long"),
        (b"a.jpg\t1\na.jpg\n", "line 2: no label, but line 1"),
        (b"a.jpg\na.jpg\t1\n", "line 1: no label, but line 2"),
        (b"a.jpg\t0\na.jpg\t-1\n", "line 2: label -1"),
        (b"a.jpg\t0\n\n,x\n", "line 3"),
    ];
    for (content, hint) in cases {
        let list = listed(&["a.jpg"], content);
        assert!(list.error().contains(hint), "{hint}: {}", list.error());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_list_is_read_as_it_was_written(
        names in prop::collection::vec("[a-z, #é]{1,8}\\.(jpg|PNG)", 1..12),
        labels in prop::option::of(prop::collection::vec("[a-z]{1,5}( [a-z]{1,3})?", 12)),
        separator in prop::sample::select(vec!["\t", ",", " ", " , "]),
        end in prop::sample::select(vec!["\n", "\r\n", "\n\n# more\n"]),
    ) {
        let names: Vec<String> = names.iter().map(|name| format!("d/{name}")).collect();
        let label = |index: usize| labels.as_ref().map_or(String::new(), |labels| format!("{separator}{}", labels[index]));
        let text: String = (0..names.len()).map(|index| format!("{}{}{end}", names[index], label(index))).collect();
        let list = listed(&names.iter().map(String::as_str).collect::<Vec<_>>(), text);
        prop_assert_eq!(list.names(), names.clone());
        let read = list.dataset().labels().map(|numbers| {
            let classes = list.dataset().classes().expect("labels are names");
            numbers.iter().map(|&number| classes[number as usize].clone()).collect::<Vec<_>>()
        });
        prop_assert_eq!(read, labels.map(|labels| labels[..names.len()].to_vec()));
    }

    #[test]
    fn no_content_of_a_list_makes_the_reader_panic(content in prop::collection::vec(prop::sample::select(b"a.jpg\t, \n\r#_/\xff0-".to_vec()), 0..60)) {
        let list = listed(&["a.jpg", "a/a_.jpg"], content);
        if let Ok(dataset) = &list.opened {
            prop_assert!(dataset.labels().is_none_or(|labels| labels.len() == dataset.len()));
            (0..dataset.len()).for_each(|index| drop(dataset.read(index)));
        }
    }
}

fn open(root: &Path, store: &Path) -> Files {
    let storage = Storage { index: Some(store.to_owned()), ..Storage::default() };
    match Dataset::open_with(root.to_str().expect("UTF-8"), Split::Train, 0, &storage) {
        Ok(Dataset::Files(files)) => files,
        other => panic!("a folder of files is expected, not {other:?}"),
    }
}

/// Empty files in folders of `each`, old enough for an index.
fn make(root: &Path, folders: usize, each: usize) {
    for folder in 0..folders {
        let folder = root.join(format!("n{folder:08}"));
        std::fs::create_dir(&folder).expect("created");
        for file in 0..each {
            let name = format!("{}_{file}.JPEG", folder.file_name().expect("has a name").display());
            std::fs::File::create(folder.join(name)).expect("created");
        }
    }
    std::thread::sleep(Duration::from_millis(2100));
}

#[test]
fn a_large_tree_is_searched_once_and_again_when_it_changes() {
    let (root, store) = (tempfile::tempdir().expect("scratch"), tempfile::tempdir().expect("scratch"));
    make(root.path(), 10, 1000);
    let index = store.path().join("not/yet/there");
    let first = open(root.path(), &index);
    assert_eq!((first.len(), first.index()), (10_000, &Index::Written));
    let second = open(root.path(), &index);
    assert_eq!((second.len(), second.index()), (10_000, &Index::Used));
    assert!((0..10_000).all(|image| first.path(image) == second.path(image)));
    assert_eq!((first.labels(), first.classes()), (second.labels(), second.classes()));
    touch(&root.path().join("n00000003/new.jpg"));
    let third = open(root.path(), &index);
    assert_eq!((third.len(), third.index()), (10_001, &Index::Without));
}

/// The most memory that this process has held since the last call, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    // Forgets the peak; without Linux there are no figures.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0) / 1024
}

#[test]
fn a_million_files_are_found_again_by_their_index() {
    if std::env::var_os("IJEPA_LARGE").is_none() {
        eprintln!("skipped: IJEPA_LARGE is not set, and this test makes a million files");
        return;
    }
    let (root, store) = (tempfile::tempdir().expect("scratch"), tempfile::tempdir().expect("scratch"));
    make(root.path(), 1000, 1000);
    let mut line = String::new();
    for folder in 0..1000 {
        (0..1000).for_each(|file| line.push_str(&format!("n{folder:08}/n{folder:08}_{file}.JPEG\t{folder}\n")));
    }
    let list = root.path().join("list.tsv");
    std::fs::write(&list, &line).expect("written");
    drop(line);
    let measure = |what: &str, work: &dyn Fn() -> Files| {
        peak();
        let before = peak();
        let start = Instant::now();
        let files = work();
        let time = start.elapsed();
        eprintln!("{what}: {time:.2?}, peak {} MiB, {before} MiB before, {:?}", peak(), files.index());
        assert_eq!(files.len(), 1_000_000);
        files.index().clone()
    };
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(measure("searched", &|| open(root.path(), store.path())), Index::Written);
    assert_eq!(measure("again", &|| open(root.path(), store.path())), Index::Used);
    measure("list", &|| Files::open_list(&list, Split::Train).expect("a list"));
}
