//! Does any text make the reader of lists of images panic?
//!
//! Beside the list lie `a.jpg`, `b c.png`, and, as in the published subsets of ImageNet, `train/n01/n01_1.jpg`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let folder = ijepa_fuzz::scratch().join("list");
    if !folder.is_dir() {
        std::fs::create_dir_all(folder.join("train/n01")).expect("a scratch folder");
        for name in ["a.jpg", "b c.png", "train/n01/n01_1.jpg"] {
            std::fs::write(folder.join(name), b"an image").expect("a scratch file");
        }
    }
    let path = folder.join("list.txt");
    std::fs::write(&path, text).expect("a scratch file");
    ijepa_fuzz::data::open(&path, &folder);
});
