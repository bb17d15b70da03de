//! How does one large file of the reference come over the network, however often the connection breaks?
//!
//! Bytes are appended to `NAME.partial`, which a later run takes up again; the file gets its name when its length is right.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::{announce, name, online, place, room, unwritable, web};
use crate::exit::{Exit, Failure};
use crate::log::progress::Progress;

/// Bytes of one read.
const CHUNK: usize = 1 << 18;

/// What an attempt came to.
enum Attempt {
    Whole,
    /// The connection broke; the error says how.
    Broken(anyhow::Error),
}

/// The file of one of the reference's downloads, in the cache of `torch.hub`.
pub(super) fn locate(name: &'static str) -> Result<PathBuf> {
    let folder = place::torch();
    let path = folder.join(format!("{name}{}", name::EXTENSION));
    if path.exists() {
        return Ok(path);
    }
    online(name, &folder)?;
    std::fs::create_dir_all(&folder).map_err(|error| unwritable(name, &folder, error))?;
    let address = format!("{}/{name}{}", place::reference(), name::EXTENSION);
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let out = File::options().append(true).create(true).open(&partial);
    let out = out.map_err(|error| unwritable(name, &partial, error))?;
    own(name, &out, &partial)?;
    let found = Download { name, address, path, agent: web::agent(), announced: false }.run(out, &partial);
    if found.is_err() && partial.metadata().is_ok_and(|facts| facts.len() == 0) {
        // Nothing to take up again; a file that stays behind would only puzzle.
        let _ = std::fs::remove_file(&partial);
    }
    found
}

/// Two processes that append to one file would spoil it.
fn own(name: &str, out: &File, partial: &Path) -> Result<()> {
    match out.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => {
            let problem = format!("{}: another process is writing {}", name, partial.display());
            Err(Failure::new(Exit::Checkpoint, problem).remedy("wait until it is done").into())
        }
        // A file system without locks is no reason to refuse.
        Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(()),
    }
}

struct Download {
    name: &'static str,
    address: String,
    path: PathBuf,
    agent: Agent,
    announced: bool,
}

impl Download {
    fn run(mut self, mut out: File, partial: &Path) -> Result<PathBuf> {
        let mut last = None;
        for attempt in 0..web::ATTEMPTS {
            web::wait(attempt);
            match self.attempt(&mut out, partial)? {
                Attempt::Whole => {
                    out.sync_all()
                        .and_then(|()| std::fs::rename(partial, &self.path))
                        .map_err(|error| unwritable(self.name, &self.path, error))?;
                    return Ok(self.path);
                }
                Attempt::Broken(error) => last = Some(error),
            }
        }
        let error = last.expect("there is at least one attempt");
        let failure = web::unreachable(self.name, &self.address, error);
        let held = out.metadata().map_or(0, |facts| facts.len());
        if held == 0 {
            return Err(failure.into());
        }
        let (bytes, partial) = (crate::inspect::bytes(held), partial.display());
        let again =
            format!("repeat the command: {bytes} are in {partial} and are not fetched again; {}", super::ELSEWHERE);
        Err(failure.remedy(again).into())
    }

    /// Asks for what is missing and appends it.
    fn attempt(&mut self, out: &mut File, partial: &Path) -> Result<Attempt> {
        let start = out.metadata().map_err(|error| unwritable(self.name, partial, error))?.len();
        let request = self.agent.get(&self.address);
        let request = if start > 0 { request.header("Range", format!("bytes={start}-")) } else { request };
        let answer = match request.call() {
            Ok(answer) => answer,
            Err(error) if web::may_pass(&error) => return Ok(Attempt::Broken(error.into())),
            Err(error) => return Err(web::unreachable(self.name, &self.address, error).into()),
        };
        let range = web::header(&answer, "content-range").and_then(range);
        let (start, total) = match (answer.status().as_u16(), range) {
            (206, Some((first, Some(total)))) if first == Some(start) => (start, Some(total)),
            (416, Some((None, Some(total)))) if total == start => return Ok(Attempt::Whole),
            // What is there is not the beginning of what the server has.
            (206 | 416, _) if start > 0 => {
                self.empty(out, partial)?;
                return Ok(Attempt::Broken(anyhow::anyhow!("{} bytes of an earlier download do not fit", start)));
            }
            // The server takes no ranges.
            (200, _) => {
                self.empty(out, partial)?;
                (0, web::header(&answer, "content-length").and_then(|length| length.parse().ok()))
            }
            (status, _) if status == 429 || status >= 500 => {
                return Ok(Attempt::Broken(anyhow::anyhow!("the server answered {status}, expected 200")));
            }
            (status, _) => return Err(web::refused(self.name, &self.address, status, None).into()),
        };
        let Some(total) = total else {
            let problem = format!("{}: {} does not say how long the file is (Content-Length)", self.name, self.address);
            return Err(Failure::new(Exit::Checkpoint, problem).remedy(super::ELSEWHERE).into());
        };
        room(self.name, partial.parent().unwrap_or(partial), total - start.min(total))?;
        if !std::mem::replace(&mut self.announced, true) {
            announce(self.name, total, partial.parent().unwrap_or(partial), super::META_LICENCE);
        }
        self.append(answer, out, partial, start, total)
    }

    fn append(
        &self,
        answer: Response<Body>,
        out: &mut File,
        partial: &Path,
        start: u64,
        total: u64,
    ) -> Result<Attempt> {
        let mut progress = Progress::bytes(total, start);
        let mut body = answer.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        let mut done = start;
        loop {
            let count = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Ok(Attempt::Broken(anyhow::Error::from(error).context(cut(done, total)))),
            };
            out.write_all(&chunk[..count]).map_err(|error| unwritable(self.name, partial, error))?;
            done += count as u64;
            progress.advance(done, self.name);
        }
        if done == total { Ok(Attempt::Whole) } else { Ok(Attempt::Broken(anyhow::anyhow!(cut(done, total)))) }
    }

    fn empty(&self, out: &File, partial: &Path) -> Result<()> {
        Ok(out.set_len(0).map_err(|error| unwritable(self.name, partial, error))?)
    }
}

fn cut(done: u64, total: u64) -> String {
    format!("the connection ended after {done} bytes, expected {total}")
}

/// First byte and whole length in `bytes 5-9/10` or `bytes */10`.
fn range(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (span, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    Some((span.split_once('-').and_then(|(first, _)| first.parse().ok()), total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_servers_write_them() {
        assert_eq!(range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(range("bytes */10"), Some((None, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(range("lines 5-9/10"), None);
    }
}
