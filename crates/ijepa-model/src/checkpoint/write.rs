//! How does a file appear under its name either whole or not at all?
//!
//! It is written beside its place under `<name>.tmp-<process>`, synced, renamed over the name, and the folder is synced: after a
//! crash at any moment the name holds the old file or the new one. What a killed process left behind is removed by the next
//! writer of the same name; a lock on the temporary file tells the dead from the living.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// Writes `path` through `content`; on any error the old file is as it was and the temporary one is gone.
pub(crate) fn write_whole(
    path: &Path,
    content: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    let error = |action: String, source| CheckpointError::Write { path: path.to_path_buf(), action, source };
    let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
        let source = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(error("write a checkpoint in its place".to_string(), source));
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut prefix = name.to_os_string();
    prefix.push(".tmp-");
    remove_abandoned(folder, &prefix);

    let mut temporary_name = prefix;
    temporary_name.push(std::process::id().to_string());
    let temporary = folder.join(temporary_name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(|e| error(format!("create {}", temporary.display()), e))?;
    let mut guard = Guard(Some(temporary.clone()));
    // File systems without locks still work; there, what a killed process left stays.
    let _ = file.try_lock();

    content(&mut file).map_err(|e| error(format!("write {}", temporary.display()), e))?;
    file.sync_all().map_err(|e| error(format!("sync {} to the disk", temporary.display()), e))?;
    fs::rename(&temporary, path).map_err(|e| error(format!("rename {} to it", temporary.display()), e))?;
    guard.0 = None;
    drop(file);
    // Folders can be opened and synced on Unix only; elsewhere the rename itself must do.
    #[cfg(unix)]
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| error(format!("sync the folder {}", folder.display()), e))?;
    Ok(())
}

/// Removes the file on the way out, unless told not to.
struct Guard(Option<PathBuf>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The error that led here is the one to report.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes temporary files of this name that no living process holds. Whatever cannot be removed is left: it is only space.
fn remove_abandoned(folder: &Path, prefix: &OsString) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let own = std::process::id().to_string();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let digits = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        if !digits.is_some_and(|d| !d.is_empty() && d.iter().all(u8::is_ascii_digit)) {
            continue;
        }
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else {
            continue;
        };
        let abandoned = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            // No locks here. Our own number was reused, so at least its earlier holder is gone.
            Err(TryLockError::Error(_)) => digits == Some(own.as_bytes()),
        };
        if abandoned {
            let _ = fs::remove_file(entry.path());
        }
    }
}
