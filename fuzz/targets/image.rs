//! Does any image make a decoder touch memory that is not its own, or give a part that differs from the same part of the whole?
//!
//! A decoder may panic: the reader takes that as a broken image. So panics are passed over here, and a difference aborts.
#![no_main]

use std::sync::Once;

use ijepa_data::decode::{Encoded, Limits};
use ijepa_data::transform::CropBox;
use libfuzzer_sys::fuzz_target;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    let limits = Limits { pixels: 1 << 18, bytes: 32 << 20 };
    let Ok(encoded) = Encoded::open(bytes, limits) else { return };
    let (width, height) = encoded.size();
    let Ok(whole) = encoded.picture() else { return };
    if (whole.width, whole.height) != (width, height) {
        std::process::abort();
    }
    let part = CropBox { left: width / 3, top: height / 3, width: width.div_ceil(2), height: height.div_ceil(2) };
    let again = Encoded::open(bytes, limits).and_then(|encoded| encoded.region(part));
    if again.ok() != Some(whole.crop(part.left, part.top, part.width, part.height)) {
        std::process::abort();
    }
});
