//! Odd files of many programs: what must load loads, what must be refused is refused by name. `IJEPA_ODD_IMAGES` names their archive: a
//! tar with a `MANIFEST.tsv` of a column `file` and a column `expected` (decode, error or either).

use std::fs::File;
use std::path::Path;

use ijepa_data::decode::decode_file;
use ijepa_data::{Dataset, Split};

/// Paths and what is expected of them.
fn expectations(root: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root.join("MANIFEST.tsv")).expect("the archive has a manifest");
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let head = lines.next().expect("a heading");
    let column = |name: &str| head.iter().position(|column| *column == name).expect("a column of that name");
    let (file, expected) = (column("file"), column("expected"));
    lines.map(|line| (line[file].to_owned(), line[expected].to_owned())).collect()
}

#[test]
fn odd_images_load_or_are_refused_as_their_manifest_says() {
    let Some(archive) = std::env::var_os("IJEPA_ODD_IMAGES") else {
        eprintln!("skipped: IJEPA_ODD_IMAGES is not set");
        return;
    };
    let root = tempfile::tempdir().expect("a scratch folder");
    tar::Archive::new(File::open(archive).expect("the archive can be read")).unpack(root.path()).expect("it unpacks");
    let expectations = expectations(root.path());
    assert!(expectations.len() > 100, "{} files", expectations.len());
    let mut wrong = Vec::new();
    for (file, expected) in &expectations {
        match (expected.as_str(), decode_file(&root.path().join(file))) {
            ("decode", Err(error)) => wrong.push(format!("must load: {error}")),
            ("error", Ok(picture)) => wrong.push(format!("{file} loaded, {}×{}", picture.width, picture.height)),
            (_, Err(error)) if !error.to_string().contains(file.trim_end_matches('/')) => {
                wrong.push(format!("{file}: {error}"))
            }
            _ => (),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // As a data set: folders and dangling links are no images, whatever their names.
    let data = Dataset::open(root.path().to_str().expect("UTF-8"), Split::Train, 0).expect("a data set");
    assert!((0..data.len()).filter(|&index| data.sample(index).is_ok()).count() > 150);
}
