//! Does any file that begins like a `torch.save` archive make the reader panic?
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    ijepa_fuzz::read_file(bytes);
});
