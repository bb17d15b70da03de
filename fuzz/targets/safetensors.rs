//! Does any safetensors file make the reader panic?
//!
//! An input that begins with a zero byte is a file as it stands, after that byte. All others are a header, up to the first zero byte,
//! and data: the length in front of the header is always right, which mutations would else rarely leave it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(file) = bytes.strip_prefix(b"\0") {
        return ijepa_fuzz::read_file(file);
    }
    let header = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let data = bytes.get(header + 1..).unwrap_or_default();
    ijepa_fuzz::read_file(&[&(header as u64).to_le_bytes()[..], &bytes[..header], data].concat());
});
