//! Does any `.npy`, IDX or `.safetensors` file make the reader of data sets panic, or ask for much memory?
//!
//! The first byte of an input says what it is; two more, little-endian, how many of the next bytes are the images; labels are what is left.
#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[kind, low, high], content)) = bytes.split_first_chunk::<3>() else { return };
    let length = usize::from(u16::from_le_bytes([low, high])).min(content.len());
    let (images, labels) = content.split_at(length);
    let folder = ijepa_fuzz::data::folder("arrays");
    let write = |name: &str, content: &[u8]| {
        std::fs::write(folder.join(name), content).expect("a scratch file");
        folder.join(name)
    };
    let source = match kind % 4 {
        0 => {
            write("labels.npy", labels);
            write("images.npy", images)
        }
        1 => {
            write("train-labels-idx1-ubyte", labels);
            write("train-images-idx3-ubyte", images)
        }
        2 => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(images).expect("into memory");
            write("t10k-labels-idx1-ubyte", labels);
            write("t10k-images-idx3-ubyte.gz", &packed.finish().expect("into memory"));
            folder.clone()
        }
        // The length of the header, which the format begins with, is that of the images' part.
        _ => write("a.safetensors", &[&(length as u64).to_le_bytes(), images, labels].concat()),
    };
    ijepa_fuzz::data::open(&source, &folder);
});
