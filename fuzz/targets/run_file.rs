//! Does any text make the reader of run files panic? A run file may come from within a checkpoint of a stranger.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)] // The program uses all of it.
#[path = "../../crates/ijepa/src/config/yaml.rs"]
mod yaml;

fuzz_target!(|text: &str| {
    if let Ok(entries) = yaml::entries(text) {
        // Lines end with \n, \r or both. To the parser the end of the file is a line of its own, on which an empty key may stand.
        let lines = text.split(['\n', '\r']).count() + 1;
        for entry in entries {
            assert!(!entry.value.shown().is_empty());
            assert!((1..=lines).contains(&entry.line), "{} on line {} of {lines}", entry.key, entry.line);
        }
    }
    if let Ok(value) = yaml::value(text) {
        assert!(!value.shown().is_empty());
    }
});
