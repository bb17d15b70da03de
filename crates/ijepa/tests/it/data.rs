//! `data check`, `data pack`, `bench data`: what is found in images, how they are stored, how fast they come.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::{ijepa, scratch};

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("created");
    std::fs::write(path, content).expect("written");
}

/// The bytes of a picture of one colour.
fn picture(width: u32, height: u32, red: u8, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([red, 80, 9]));
    image.write_to(&mut bytes, format).expect("it encodes");
    bytes.into_inner()
}

fn jpeg(red: u8) -> Vec<u8> {
    picture(40, 30, red, image::ImageFormat::Jpeg)
}

/// Two classes, two splits, a truncated JPEG, a text called .jpg, a PNG called .jpg, and a picture three times.
fn photos() -> tempfile::TempDir {
    let dir = scratch();
    let root = dir.path().join("photos");
    write(&root, "train/ant/0.jpg", jpeg(0));
    write(&root, "train/ant/1.jpg", jpeg(50));
    write(&root, "train/ant/2.jpg", picture(64, 48, 3, image::ImageFormat::Png));
    write(&root, "train/bee/same.jpg", jpeg(50));
    write(&root, "train/bee/short.jpg", &jpeg(90)[..300]);
    write(&root, "train/bee/text.jpg", "<html>404</html>");
    write(&root, "val/bee/0.jpg", jpeg(50));
    write(&root, "val/bee/1.jpg", picture(10, 10, 7, image::ImageFormat::Png));
    dir
}

#[test]
fn a_check_names_what_is_unreadable_and_what_is_there_twice() {
    let dir = photos();
    let said = ijepa(dir.path(), &["data", "check", "photos", "--json"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).expect("one object");
    assert_eq!(report["images"], 8);
    assert_eq!(report["splits"], json!({"train": 6, "val": 2}));
    assert_eq!(report["formats"], json!({"jpg": 4, "png": 2}));
    assert_eq!(report["modes"], json!({"RGB": 6}));
    assert_eq!(report["classes"], json!({"ant": 3, "bee": 5}));
    assert_eq!(
        report["duplicates"],
        json!([["photos/train/ant/1.jpg", "photos/train/bee/same.jpg", "photos/val/bee/0.jpg"]])
    );
    assert_eq!((&report["duplicates_across_splits"], &report["duplicates_across_classes"]), (&json!(1), &json!(1)));
    assert_eq!((&report["smallest"], &report["largest"]), (&json!([10, 10]), &json!([64, 48])));
    let unreadable = report["unreadable"].as_array().expect("a list");
    let [short, text] = unreadable.as_slice() else { panic!("two are unreadable: {unreadable:?}") };
    assert_eq!(
        (&short["path"], &text["path"]),
        (&json!("photos/train/bee/short.jpg"), &json!("photos/train/bee/text.jpg"))
    );
    assert!(short["error"].as_str().is_some_and(|error| error.contains("truncated")), "{short}");
    assert!(text["error"].as_str().is_some_and(|error| error.contains("not a JPEG")), "{text}");

    let said = ijepa(dir.path(), &["-q", "data", "check", "photos"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(3), ""));
    for part in ["8 images", "short.jpg: the JPEG ends", "ant/1.jpg = photos/train/bee/same.jpg", "40×30 median"] {
        assert!(said.stdout.contains(part), "{part:?} is not in\n{}", said.stdout);
    }
}

#[test]
fn a_sound_data_set_ends_well() {
    let dir = photos();
    let report = ijepa(dir.path(), &["data", "check", "photos/val", "--json"]).json();
    assert_eq!((&report["images"], &report["unreadable"], &report["splits"]), (&json!(2), &json!([]), &json!({})));
    let report = ijepa(dir.path(), &["data", "check", "scenes:20", "--json"]).json();
    assert_eq!((&report["images"], &report["formats"]), (&json!(20), &json!({"scene": 20})));
}

/// Members of a tar file, and whether any of them carries a time or an owner.
fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).expect("it is there"));
    let entries = archive.entries().expect("it is a tar file");
    entries
        .map(|entry| {
            let mut entry = entry.expect("a member");
            let header = entry.header();
            let owner = (header.mtime().ok(), header.uid().ok(), header.gid().ok());
            assert_eq!(owner, (Some(0), Some(0), Some(0)));
            let name = entry.path().expect("a name").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            (name, content)
        })
        .collect()
}

#[test]
fn shards_hold_the_files_to_the_byte_and_their_classes() {
    let dir = photos();
    let pack = |out: &str, options: &[&str]| {
        ijepa(dir.path(), &[&["data", "pack", "photos", "--out", out, "--json"], options].concat())
    };
    let said = pack("a", &[]);
    let written = said.json();
    assert_eq!((&written["images"], &written["classes"]), (&json!(7), &json!(2)));
    assert_eq!(written["shards"], json!(["a/train-000000.tar", "a/val-000000.tar"]));
    // A truncated JPEG is only found by decoding.
    assert_eq!(written["left_out"][0]["path"], json!("photos/train/bee/text.jpg"));
    assert!(said.stderr.contains("left out: photos/train/bee/text.jpg"), "{}", said.stderr);
    let train = members(&dir.path().join("a/train-000000.tar"));
    let names: Vec<&str> = train.keys().map(String::as_str).collect();
    let expected: Vec<String> = (0..5)
        .flat_map(|k| [format!("{k:08}.cls"), format!("{k:08}.{}", if k == 2 { "png" } else { "jpg" })])
        .collect();
    assert_eq!(names, expected);
    assert_eq!((&train["00000000.jpg"], train["00000000.cls"].as_slice()), (&jpeg(0), b"0".as_slice()));
    assert_eq!((&train["00000003.jpg"], train["00000003.cls"].as_slice()), (&jpeg(50), b"1".as_slice()));
    // `bee` is class 1 of both splits, though val has no other.
    assert_eq!(members(&dir.path().join("a/val-000000.tar"))["00000000.cls"], b"1");
    assert_eq!(std::fs::read_to_string(dir.path().join("a/classes.txt")).expect("it is there"), "ant\nbee\n");

    pack("b", &[]).json();
    for name in ["train-000000.tar", "val-000000.tar"] {
        let read = |out: &str| std::fs::read(dir.path().join(out).join(name)).expect("it is there");
        assert_eq!(read("a"), read("b"));
    }
    let checked = pack("c", &["--check", "--shard-images", "2", "--name", "bugs"]).json();
    assert_eq!(checked["left_out"].as_array().map(Vec::len), Some(2));
    let names = ["c/bugs-train-000000.tar", "c/bugs-train-000001.tar", "c/bugs-val-000000.tar"];
    assert_eq!(checked["shards"], json!(names));
    let by_bytes = pack("d", &["--shard-bytes", "4kB"]).json();
    assert!(by_bytes["shards"].as_array().is_some_and(|shards| shards.len() > 2), "{by_bytes}");
    for shard in by_bytes["shards"].as_array().into_iter().flatten() {
        let bytes = std::fs::metadata(dir.path().join(shard.as_str().expect("a name"))).expect("it is there").len();
        assert!(bytes <= 4000, "{shard}: {bytes}");
    }
}

#[test]
fn a_shuffled_pack_has_the_same_images_in_an_order_of_its_seed() {
    let dir = scratch();
    for k in 0..30u8 {
        write(dir.path(), &format!("photos/{k:02}.jpg"), jpeg(k * 8));
    }
    let pack = |out: &str, seed: &str| {
        let said = ijepa(dir.path(), &["data", "pack", "photos", "--out", out, "--shuffle", seed, "--json"]);
        assert_eq!(said.json()["classes"], Value::Null);
        members(&dir.path().join(out).join("images-000000.tar")).into_values().collect::<Vec<_>>()
    };
    let (a, again, b) = (pack("a", "1"), pack("a2", "1"), pack("b", "2"));
    assert_eq!(a, again);
    assert_ne!(a, b);
    let sorted = |mut images: Vec<Vec<u8>>| {
        images.sort();
        images
    };
    assert_eq!(sorted(a), sorted(b));
    assert!(!dir.path().join("a/classes.txt").exists());
}

#[test]
fn packing_overwrites_nothing_and_leaves_nothing_half_done() {
    let dir = photos();
    let pack = |path: &str, out: &str, options: &[&str]| {
        ijepa(dir.path(), &[&["data", "pack", path, "--out", out], options].concat())
    };
    assert_eq!(pack("photos", "a", &[]).code, Some(0));
    let before = std::fs::read(dir.path().join("a/train-000000.tar")).expect("it is there");
    pack("photos", "a", &[]).refused(2, &["a holds", "already", "--out"]);
    assert_eq!(std::fs::read(dir.path().join("a/train-000000.tar")).expect("it is there"), before);
    write(dir.path(), "texts/a.jpg", "no image");
    pack("texts", "b", &[]).refused(3, &["texts: no image could be read", "a.jpg"]);
    assert_eq!(std::fs::read_dir(dir.path().join("b")).expect("it is there").count(), 0);
    pack("scenes:10", "b", &[]).refused(3, &["scenes:0", "only encoded images"]);
    pack("nowhere", "b", &[]).refused(3, &["nowhere"]);
    pack("photos", "b", &["--shard-bytes", "big"]).refused(2, &["500MB"]);
    pack("photos", "b", &["--shard-bytes", "1MB", "--shard-images", "3"]).refused(2, &["--shard-images"]);
    pack("photos", "b", &["--shard-images", "0"]).refused(2, &["at least 1"]);
    pack("photos", "b", &["--name", "../x"]).refused(2, &["--name"]);
    write(dir.path(), "file", "x");
    pack("photos", "file/b", &[]).refused(1, &["cannot write file/b"]);
    std::fs::create_dir(dir.path().join("b/.pack-unfinished")).expect("created");
    pack("photos", "b", &[]).refused(2, &[".pack-unfinished", "another call"]);
    ijepa(dir.path(), &["data", "check", "nowhere"]).refused(3, &["nowhere"]);
}

#[test]
fn the_bench_of_data_says_where_the_time_goes() {
    let dir = photos();
    let bench = |options: &[&str]| {
        // Many more batches than can be ready before the clock starts.
        let arguments = ["bench", "data", "--data", "photos", "--images", "60", "--set", "data.batch_size=3"];
        ijepa(dir.path(), &[&arguments, options].concat())
    };
    let report = bench(&["--crop", "32", "--threads", "1", "--json"]).json();
    assert_eq!((&report["images"], &report["threads"], &report["crop"]), (&json!(60), &json!(1), &json!(32)));
    for key in ["seconds", "img_per_s", "img_per_s_per_thread", "decode_ms", "transform_ms"] {
        assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key} in {report}");
    }
    assert!(report["read_ms"].is_number() && report["wait_ms"].is_number(), "{report}");
    assert_eq!(report["skipped"], 2);
    let said = bench(&["--crop", "32"]);
    assert_eq!(said.code, Some(0));
    assert!(said.stdout.contains("images/s on") && said.stdout.contains("decode"), "{}", said.stdout);
    assert!(said.stdout.contains("2 unreadable images"), "{}", said.stdout);
    bench(&["--crop", "0"]).refused(2, &["at least 1"]);
    ijepa(dir.path(), &["bench", "data", "--data", "photos", "--images", "0"]).refused(2, &["at least 1"]);
    ijepa(dir.path(), &["bench", "data", "--data", "nowhere"]).refused(3, &["nowhere"]);
}

#[test]
fn a_run_says_how_long_it_waited_for_data() {
    let dir = scratch();
    let run = ["pretrain", "small.yaml", "--data", "scenes:16", "--out", "run", "--steps", "2"];
    let said = ijepa(dir.path(), &run);
    assert_eq!(said.code, Some(0));
    assert!(said.stderr.contains("waited for data: "), "{}", said.stderr);
}
