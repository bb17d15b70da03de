//! AVIF: the colours that Pillow gives, limits before anything is decoded, and nothing hostile gets far.

use std::path::PathBuf;

use ijepa_data::decode::{Encoded, Limits, decode};
use ijepa_data::transform::CropBox;
use ijepa_data::{DecodeError, Picture};
use proptest::prelude::*;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/avif"))
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).expect("the golden is there")
}

fn decoded(bytes: &[u8]) -> Result<Picture, DecodeError> {
    decode(bytes, Limits::default())
}

/// Where a box of this kind has its content, the first one of the file.
fn content_of(bytes: &[u8], kind: &[u8; 4]) -> usize {
    bytes.windows(4).position(|window| window == kind).expect("the box is there") + 4
}

/// With another number in place of four bytes.
fn with(bytes: &[u8], at: usize, number: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn refused(bytes: &[u8], hint: &str) {
    let error = decoded(bytes).map(drop).expect_err(hint).to_string();
    assert!(error.contains(hint), "{hint}: {error}");
}

#[test]
fn colours_are_pillows_to_a_few_levels() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the goldens are there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.retain(|path| path.extension().is_some_and(|ending| ending == "avif"));
    names.sort();
    assert!(names.len() >= 30, "{} files", names.len());
    let (mut sum, mut values, mut most) = (0, 0, 0);
    for path in names {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let ours = decoded(&std::fs::read(&path).expect("a file")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let theirs = decoded(&std::fs::read(path.with_extension("png")).expect("a file")).expect("a PNG");
        assert_eq!((ours.width, ours.height), (theirs.width, theirs.height), "{name}");
        let differences = || ours.rgb.iter().zip(&theirs.rgb).map(|(a, b)| u32::from(a.abs_diff(*b)));
        let (total, largest) = (differences().sum::<u32>(), differences().max().unwrap_or(0));
        let mean = f64::from(total) / ours.rgb.len() as f64;
        eprintln!("{name:24} mean {mean:.3} largest {largest}");
        // Pillow's come through libyuv, whose numbers have 6 bits behind the point; where it has no way of its own, all are equal.
        let equal = ["400", "444_matrix0", "444_matrix4", "444_matrix7", "444_matrix8"];
        let (of_mean, of_most) = if equal.iter().any(|equal| name.starts_with(equal)) { (0.0, 0) } else { (1.2, 10) };
        assert!(mean <= of_mean && largest <= of_most, "{name}: {mean} in the mean, {largest} at most");
        (sum, values, most) = (sum + total, values + ours.rgb.len(), most.max(largest));
    }
    eprintln!("all: {:.3} in the mean, {most} at most", f64::from(sum) / values as f64);
}

#[test]
fn a_part_is_that_of_the_whole_in_every_orientation() {
    for name in ["420.avif", "orientation5.avif", "orientation6.avif"] {
        let bytes = file(name);
        let whole = decoded(&bytes).expect("decodes");
        let part = CropBox { left: 3, top: 5, width: 20, height: 17 };
        let got = Encoded::open(&bytes, Limits::default()).and_then(|encoded| encoded.region(part));
        assert_eq!(got.expect("decodes"), whole.crop(3, 5, 20, 17));
    }
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    let bytes = file("420.avif");
    let size = content_of(&bytes, b"ispe") + 4; // behind version and flags
    let huge = with(&with(&bytes, size, 50_000), size + 4, 50_000);
    assert!(matches!(decoded(&huge), Err(DecodeError::TooManyPixels { .. })));
    assert!(matches!(decoded(&with(&bytes, size, 0)), Err(DecodeError::NoPixels { .. })));
    // 81 megapixels, that might take 9 bytes each.
    refused(&with(&with(&bytes, size, 9000), size + 4, 9000), "may take over 536870912 bytes");
    // A frame of AV1 that is larger than the container says is not decoded, nor is one that is smaller taken.
    refused(&with(&bytes, size, 40), "AV1");
    refused(&with(&bytes, size, 42), "decoded to 41×30 pixels, expected 42×30");
    let few = Limits { pixels: 41 * 30 - 1, ..Limits::default() };
    assert!(matches!(decode(&bytes, few), Err(DecodeError::TooManyPixels { .. })));
}

#[test]
fn containers_that_lie_are_refused() {
    let bytes = file("alpha_multiplied.avif");
    assert!(decoded(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(decoded(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    let places = content_of(&bytes, b"iloc");
    refused(&with(&bytes, places + 4, 0x3333_0001), "places of 3 bytes");
    refused(&with(&bytes, content_of(&bytes, b"infe") + 8, u32::from_be_bytes(*b"grid")), "several tiles");
    refused(&with(&bytes, content_of(&bytes, b"infe") + 8, u32::from_be_bytes(*b"hvc1")), "none of AV1");
    refused(&with(&bytes, content_of(&bytes, b"pitm") + 2, 99), "none of AV1");
    refused(&with(&bytes, content_of(&bytes, b"ipma") + 4, 1 << 30), "1073741824 entries");
    refused(&with(&bytes, content_of(&bytes, b"iprp") - 8, 7), "cut off");
}

#[test]
fn thousands_of_hidden_frames_are_refused() {
    let bytes = file("420.avif");
    let data = content_of(&bytes, b"mdat");
    // A frame header of no bytes, again and again, in place of the data.
    let mut flood = bytes[..data].to_vec();
    flood.resize(bytes.len(), 0);
    for unit in flood[data..].as_chunks_mut::<2>().0 {
        *unit = [3 << 3 | 2, 0];
    }
    refused(&flood, "frames of AV1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damage_anywhere_is_an_error_or_a_picture(
        which in 0usize..4, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = file(["420.avif", "444_12bit.avif", "400_10bit.avif", "alpha_multiplied.avif"][which]);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let limits = Limits { pixels: 1 << 16, bytes: 16 << 20 };
        if let Ok(picture) = decode(&bytes, limits) {
            prop_assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
        }
    }
}
