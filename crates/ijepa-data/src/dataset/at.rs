//! How do many threads read parts of one file? Each from the place that it names, so that none moves another's.

use std::fs::File;
use std::io;
use std::path::Path;
#[cfg(not(unix))]
use std::sync::{Mutex, PoisonError};

/// An open file without a position.
#[derive(Debug)]
pub(super) struct At {
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: Mutex<File>,
    len: u64,
}

impl At {
    pub(super) fn open(path: &Path) -> io::Result<At> {
        // A pipe would be waited for, without end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        #[cfg(not(unix))]
        let file = Mutex::new(file);
        Ok(At { file, len })
    }

    /// Bytes in the file when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `bytes` with those from `start` on.
    pub(super) fn read(&self, bytes: &mut [u8], start: u64) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, start);
        #[cfg(not(unix))]
        {
            use std::io::{Read, Seek, SeekFrom};
            // A thread that died while reading left only the file's position behind, and that is set here.
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(bytes)
        }
    }
}
