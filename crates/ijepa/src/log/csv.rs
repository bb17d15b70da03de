//! The reference's log: one row a step, under its header, so that its users' plots work.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::Row;

const HEADER: &str = "epoch,itr,loss,mask-A,mask-B,time (ms)\n";

/// An open log of steps.
pub(super) struct Csv {
    file: File,
    steps_per_epoch: u64,
}

impl Csv {
    /// Opens `path` for a run that is about to do step `start_step`: rows of that step and later, and a torn last row, are dropped.
    pub(super) fn open(path: &Path, steps_per_epoch: u64, start_step: u64) -> io::Result<Csv> {
        let before = |row: &str| {
            let mut columns = row.split(',').map(|column| column.parse::<u64>().ok());
            let (epoch, iteration) = (columns.next()??, columns.next()??);
            Some(epoch.checked_sub(1)? * steps_per_epoch + iteration)
        };
        let rows = kept(path, start_step, before)?;
        Ok(Csv { file: rewritten(path, &format!("{HEADER}{rows}"))?, steps_per_epoch })
    }

    /// Appends a row: epoch from 1, iteration in the epoch from 0, loss, patches of a context and of a target block, milliseconds.
    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        let line = format!(
            "{},{},{:.5},{:.5},{:.5},{}\n",
            row.epoch,
            row.step % self.steps_per_epoch,
            row.loss,
            row.context_patches,
            row.target_patches,
            row.step_ms as u64
        );
        self.file.write_all(line.as_bytes())
    }
}

/// The whole lines of `path` whose step, as `step_of` reads it, is before `start_step`; none where there is no file.
pub(super) fn kept(path: &Path, start_step: u64, step_of: impl Fn(&str) -> Option<u64>) -> io::Result<String> {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    Ok(whole.filter(|line| step_of(line.trim_end()).is_some_and(|step| step < start_step)).collect())
}

/// Opens `path` for appending, with `text` in it and nothing else. Whenever the process dies, the file holds the old text or the new.
pub(super) fn rewritten(path: &Path, text: &str) -> io::Result<File> {
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".tmp");
    let mut file = File::create(&scratch)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&scratch, path)?;
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::row;

    #[test]
    fn an_interrupted_log_ends_like_an_uninterrupted_one() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let (whole, torn) = (dir.path().join("whole.csv"), dir.path().join("torn.csv"));
        let write = |path: &Path, from: u64, to: u64| {
            let mut csv = Csv::open(path, 4, from).expect("it can be written");
            (from..to).for_each(|step| csv.row(&row(step, 4)).expect("it can be written"));
        };
        write(&whole, 0, 10);
        write(&torn, 0, 7);
        let mut bytes = std::fs::read(&torn).expect("it was written");
        bytes.extend(b"2,3,0.12");
        std::fs::write(&torn, bytes).expect("it can be written");
        write(&torn, 5, 10);
        let whole = std::fs::read_to_string(&whole).expect("it was written");
        assert_eq!(std::fs::read_to_string(&torn).expect("it was written"), whole);
        assert_eq!(whole.matches("epoch").count(), 1);
    }

    #[test]
    fn rows_are_kept_when_the_log_cannot_be_rewritten() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("a.csv");
        Csv::open(&path, 4, 0).and_then(|mut csv| csv.row(&row(0, 4))).expect("it can be written");
        let before = std::fs::read(&path).expect("it was written");
        std::fs::create_dir(dir.path().join("a.csv.tmp"))
            .expect("something stands where the new text is to be written");
        assert!(Csv::open(&path, 4, 0).is_err());
        assert_eq!(std::fs::read(&path).expect("it is there"), before);
    }

    #[test]
    fn values_look_as_in_the_reference() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("a.csv");
        Csv::open(&path, 4, 0).and_then(|mut csv| csv.row(&row(5, 4))).expect("it can be written");
        let text = std::fs::read_to_string(&path).expect("it was written");
        assert_eq!(text, "epoch,itr,loss,mask-A,mask-B,time (ms)\n2,1,0.16667,50.12500,33.00000,12\n");
    }
}
