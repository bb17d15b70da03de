//! Does any folder of a model make the reader panic?
//!
//! An input is a list of files: a byte that chooses the name, two of length (little-endian), the content. A length of more than what
//! is left means what is left. Of files of one name the last stays.
#![no_main]

use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 7] = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "a.safetensors",
    "b.safetensors",
];

fuzz_target!(|bytes: &[u8]| {
    let folder = ijepa_fuzz::scratch().join("folder");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a scratch folder");
    let mut rest = bytes;
    while let [name, low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (content, after) = after.split_at(length);
        std::fs::write(folder.join(NAMES[usize::from(*name) % NAMES.len()]), content).expect("a scratch file");
        rest = after;
    }
    ijepa_fuzz::read(&folder);
});
