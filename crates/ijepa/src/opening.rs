//! What does the user see while data is opened? Nothing where it is quick; of many shards, which may have to be fetched, how many are known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ijepa_data::{DataError, Dataset, Split, Storage};

use crate::log::progress::Progress;

/// How long nothing is shown.
const QUICK: Duration = Duration::from_secs(2);

/// As [`Dataset::open_with`], with progress on stderr.
pub(crate) fn open(spec: &str, split: Split, seed: u64, storage: Storage) -> Result<Dataset, DataError> {
    let (began, shown) = (Instant::now(), Arc::new(Mutex::new(None::<Progress>)));
    let progress = Arc::clone(&shown);
    let opened = move |done, total| {
        // Whoever panicked while it held this was only showing something.
        let mut shown = progress.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_some() || began.elapsed() >= QUICK {
            shown.get_or_insert_with(|| Progress::start(total, done)).advance(done, "shards opened");
        }
    };
    Dataset::open_with(spec, split, seed, &Storage { opened: Some(Arc::new(opened)), ..storage })
}
