//! A file that gets its name when it is complete.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file in the making, called `NAME.partial`; dropped unfinished, it is removed.
pub(super) struct Partial {
    out: BufWriter<File>,
    name: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl Partial {
    /// Begins the file `name`.
    pub(super) fn create(name: &Path) -> io::Result<Partial> {
        let mut partial = name.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial)?;
        Ok(Partial { out: BufWriter::new(file), name: name.to_owned(), partial, finished: false })
    }

    /// The file, from its beginning, to read back what was written.
    pub(super) fn rewound(&mut self) -> io::Result<&mut File> {
        self.out.flush()?;
        let file = self.out.get_mut();
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> io::Result<PathBuf> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        std::fs::rename(&self.partial, &self.name)?;
        self.finished = true;
        Ok(self.name.clone())
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}
