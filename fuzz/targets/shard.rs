//! Does any tar make the reader of WebDataset shards panic, or ask for much memory?
//!
//! The first byte of an input: whether the sums of the headers are set right (1), and whether the tar is packed (2). The rest is the tar.
#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

/// Gives every header that can be reached its sum.
fn set_sums(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        if block.iter().any(|&byte| byte != 0) {
            block.copy_from_slice(header.as_bytes());
        }
        let size = header.entry_size().unwrap_or(0).min(1 << 40) as usize;
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&way, tar)) = bytes.split_first() else { return };
    let mut tar = tar.to_vec();
    if way & 1 == 1 {
        set_sums(&mut tar);
    }
    let folder = ijepa_fuzz::data::folder("shards");
    let path = folder.join(if way & 2 == 2 { "0.tgz" } else { "0.tar" });
    if way & 2 == 2 {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&tar).expect("into memory");
        tar = packed.finish().expect("into memory");
    }
    std::fs::write(&path, tar).expect("a scratch file");
    ijepa_fuzz::data::open(&path, &folder);
});
