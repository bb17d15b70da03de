//! Does any file that begins like one from before PyTorch 1.6 make the reader panic?
//!
//! An input is what follows the magic number and the version, which are in front of it in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

const BEGINNING: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

fuzz_target!(|bytes: &[u8]| {
    ijepa_fuzz::read_file(&[BEGINNING, bytes].concat());
});
