//! Does any Parquet file make the reader of its images ask for much memory, or end otherwise than with an error?
//!
//! The first two bytes of an input are the length of the footer (little-endian), which is set at its end; 0: a file as it stands. The crate
//! that unpacks pages may panic: the reader takes that for damage. So panics of that are passed over here.
#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use libfuzzer_sys::fuzz_target;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    let Some((&[low, high], file)) = bytes.split_first_chunk::<2>() else { return };
    let mut file = file.to_vec();
    if (low, high) != (0, 0) {
        file.extend([low, high, 0, 0]);
        file.extend(b"PAR1");
    }
    let folder = ijepa_fuzz::data::folder("parquet");
    let path = folder.join("a.parquet");
    std::fs::write(&path, file).expect("a scratch file");
    // What the reader lets through is its own.
    if catch_unwind(AssertUnwindSafe(|| ijepa_fuzz::data::open(&path, &folder))).is_err() {
        std::process::abort();
    }
});
