//! How does a shard come over the network, however often the connection breaks?
//!
//! Bytes are appended to a file that later attempts take up again (`Range` with `If-Range`, so that nothing of one version is appended
//! to another), until its length is that which the server names. What may pass (connections cut, 429, 5xx) is waited for, longer
//! each time; anything else is an error at once. Addresses are named without their query, where keys to private stores stand.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::{Agent, Body};

use super::copies::{NEVER, go_on};
use super::names::path_of;
use super::tape;

/// Bytes of one read.
const CHUNK: usize = 1 << 18;
/// New bytes after which earlier failures are forgotten: a line that drops after every megabyte still gets there.
const ADVANCE: u64 = 1 << 16;

/// Longest wait before it is looked whether there is anything to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long is waited for what may pass?
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Attempts in a row that bring nothing new.
    pub(super) attempts: u32,
    /// The wait after the first one; each further one is twice as long.
    pub(super) wait: Duration,
    /// Longest wait, also where the server asks for more.
    pub(super) wait_max: Duration,
    /// Longest silence, at every stage of a request.
    pub(super) silence: Duration,
}

impl Default for Patience {
    /// Half a minute of waits in all: enough for a server that is started again.
    fn default() -> Patience {
        let (wait, wait_max) = (Duration::from_millis(500), Duration::from_secs(30));
        Patience { attempts: 7, wait, wait_max, silence: Duration::from_secs(30) }
    }
}

/// What a server says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) bytes: u64,
    etag: Option<String>,
    modified: Option<String>,
    /// By its first bytes.
    pub(super) gzip: bool,
}

impl Facts {
    /// What changes when the file does.
    pub(super) fn stamp(&self) -> String {
        let version = self.etag.as_deref().or(self.modified.as_deref()).unwrap_or_default();
        format!("{} {version}", self.bytes)
    }

    /// What `If-Range` takes: no weak ETag.
    fn validator(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| etag.starts_with('"')).or(self.modified.as_deref())
    }
}

/// Asks servers.
#[derive(Debug)]
pub(super) struct Web {
    agent: Agent,
    patience: Patience,
}

/// Why an attempt failed.
enum Fault {
    /// The next one may do better.
    Passing {
        problem: String,
        /// How long the server asks to wait.
        asked: Option<Duration>,
        /// Whether it brought something new.
        advanced: bool,
    },
    Final(String),
}

fn passing(problem: String) -> Fault {
    Fault::Passing { problem, asked: None, advanced: false }
}

impl Web {
    pub(super) fn new(patience: Patience) -> Web {
        let silence = Some(patience.silence);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_send_request(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            // Lengths are those of the file, not of a compressed form.
            .accept_encoding("identity")
            .user_agent(concat!("ijepa/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Web { agent, patience }
    }

    /// Asks for the first bytes: unlike HEAD, signed addresses allow it, and it tells whether ranges are served.
    pub(super) fn facts(&self, address: &str) -> Result<Facts, String> {
        self.patiently(&NEVER, || {
            let answer = self.ask(address, Some("bytes=0-1".into()), None)?;
            let said = |name| header(&answer, name).map(str::to_owned);
            let (etag, modified) = (said("etag"), said("last-modified"));
            let bytes = match answer.status().as_u16() {
                206 => said("content-range").as_deref().and_then(range).and_then(|(_, total)| total),
                416 => Some(0),
                _ => said("content-length").and_then(|length| length.parse().ok()),
            };
            let place = path_of(address);
            let bytes = bytes.ok_or_else(|| {
                Fault::Final(format!(
                    "{place} does not say how long it is (Content-Length); download it by other means"
                ))
            })?;
            if bytes == 0 {
                return Err(Fault::Final("the file is empty; fetch it again or leave it out".into()));
            }
            let mut first = [0; 2];
            let mut body = answer.into_body().into_reader();
            let count = tape::fill(&mut body, &mut first).map_err(|error| passing(format!("{place}: {error}")))?;
            if (count as u64) < bytes.min(2) {
                return Err(passing(format!("{place}: the connection ended after {count} bytes")));
            }
            Ok(Facts { bytes, etag, modified, gzip: is_gzip(&first) })
        })
    }

    /// Completes `part`, which is empty, new, or the beginning of the same version, unless `stop` is set.
    pub(super) fn download(&self, stop: &AtomicBool, address: &str, facts: &Facts, part: &Path) -> Result<(), String> {
        let unwritable = |error| format!("cannot write {}: {error}; make room or give another folder", part.display());
        let mut out = File::options().append(true).create(true).open(part).map_err(unwritable)?;
        let mut most = 0;
        self.patiently(stop, || {
            let begin = out.metadata().map_err(|error| Fault::Final(unwritable(error)))?.len();
            most = begin.max(most);
            let fault = match self.append(stop, address, facts, &mut out, begin) {
                Ok(()) => return out.sync_all().map_err(|error| Fault::Final(unwritable(error))),
                Err(Attempt::Fault(fault)) => fault,
                Err(Attempt::Unwritable(error)) => Fault::Final(unwritable(error)),
            };
            let held = out.metadata().map_or(0, |facts| facts.len());
            match fault {
                Fault::Passing { problem, asked, .. } if held >= most + ADVANCE => {
                    Err(Fault::Passing { problem, asked, advanced: true })
                }
                fault => Err(fault),
            }
        })
    }

    /// Asks for what is missing behind `begin` bytes, and appends it.
    fn append(
        &self,
        stop: &AtomicBool,
        address: &str,
        facts: &Facts,
        out: &mut File,
        begin: u64,
    ) -> Result<(), Attempt> {
        if begin == facts.bytes {
            return Ok(());
        }
        let place = path_of(address);
        // Without a name for the version, what is there may be of another one.
        let known = facts.validator().filter(|_| (1..facts.bytes).contains(&begin));
        let asked = known.map(|validator| (format!("bytes={begin}-"), validator));
        let answer = match &asked {
            Some((range, validator)) => self.ask(address, Some(range.clone()), Some(validator))?,
            None => self.ask(address, None, None)?,
        };
        let named = header(&answer, "content-range").and_then(range);
        let begin = match (answer.status().as_u16(), named) {
            (206, Some((Some(first), Some(total)))) if first == begin && total == facts.bytes && asked.is_some() => {
                begin
            }
            (206 | 416, _) => {
                out.set_len(0).map_err(Attempt::Unwritable)?;
                return Err(passing(format!("{place}: the server's part does not fit what is there")).into());
            }
            _ => {
                out.set_len(0).map_err(Attempt::Unwritable)?;
                0
            }
        };
        let length = header(&answer, "content-length").and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| begin.checked_add(length) != Some(facts.bytes)) {
            let problem = format!("{place} has another length than before ({}); open the data again", facts.bytes);
            return Err(Fault::Final(problem).into());
        }
        let mut body = answer.into_body().into_reader().take(facts.bytes - begin);
        let (mut chunk, mut done) = (vec![0; CHUNK], begin);
        while done < facts.bytes {
            go_on(stop).map_err(Fault::Final)?;
            let cut = |why: &str| passing(format!("{place}: {why} after {done} bytes, expected {}", facts.bytes));
            let count = match body.read(&mut chunk) {
                Ok(0) => return Err(cut("the connection ended").into()),
                Ok(count) => count,
                Err(error) => return Err(cut(&error.to_string()).into()),
            };
            out.write_all(&chunk[..count]).map_err(Attempt::Unwritable)?;
            done += count as u64;
        }
        Ok(())
    }

    /// One request, and an answer that means success (200, 206) or that a range cannot be had (416).
    fn ask(&self, address: &str, range: Option<String>, if_range: Option<&str>) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(address);
        for (name, value) in [("Range", range.as_deref()), ("If-Range", if_range)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let place = path_of(address);
        let answer = request.call().map_err(|error| {
            let problem = format!("{place} cannot be asked: {error}");
            if may_pass(&error) { passing(problem) } else { Fault::Final(format!("{problem}; check the address")) }
        })?;
        match answer.status().as_u16() {
            200 | 206 | 416 => Ok(answer),
            status @ (408 | 425 | 429 | 500..) => {
                let asked = header(&answer, "retry-after").and_then(|seconds| seconds.trim().parse().ok());
                let problem = format!("{place} answered {status}, expected 200");
                Err(Fault::Passing { problem, asked: asked.map(Duration::from_secs), advanced: false })
            }
            status => {
                let meaning = match status {
                    401 | 403 => "it may not be read; check the address and the rights to it",
                    404 | 410 => "there is nothing of this name; check the address",
                    _ => "it cannot be had this way; check the address",
                };
                Err(Fault::Final(format!("{place} answered {status}, expected 200: {meaning}")))
            }
        }
    }

    /// Tries until it works, cannot work, or has brought nothing new too often, or until `stop` is set.
    fn patiently<T>(&self, stop: &AtomicBool, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, String> {
        let Patience { attempts, wait, wait_max, .. } = self.patience;
        let mut failures = 0;
        loop {
            go_on(stop)?;
            match attempt() {
                Ok(done) => return Ok(done),
                Err(Fault::Final(problem)) => return Err(problem),
                Err(Fault::Passing { problem, asked, advanced }) => {
                    failures = if advanced { 1 } else { failures + 1 };
                    if failures >= attempts {
                        return Err(format!("{problem}, after {failures} attempts; try again later"));
                    }
                    let wait = wait.saturating_mul(1 << (failures - 1).min(16));
                    let until = Instant::now() + wait.max(asked.unwrap_or_default()).min(wait_max);
                    while !stop.load(Ordering::Relaxed)
                        && let Some(left) = until.checked_duration_since(Instant::now())
                    {
                        std::thread::sleep(left.min(LOOK_AGAIN));
                    }
                }
            }
        }
    }
}

/// Why nothing more was appended.
enum Attempt {
    Fault(Fault),
    Unwritable(std::io::Error),
}

impl From<Fault> for Attempt {
    fn from(fault: Fault) -> Attempt {
        Attempt::Fault(fault)
    }
}

/// Whether a file is packed with gzip, by its first bytes.
pub(super) fn is_gzip(first: &[u8]) -> bool {
    first.starts_with(&[0x1f, 0x8b])
}

/// Whether another attempt may help. A refused connection may: servers are started again.
fn may_pass(error: &ureq::Error) -> bool {
    use ureq::Error::{ConnectionFailed, Io, Protocol, Timeout};
    matches!(error, Io(_) | Timeout(_) | Protocol(_) | ConnectionFailed)
}

fn header<'r>(answer: &'r Response<Body>, name: &str) -> Option<&'r str> {
    answer.headers().get(name)?.to_str().ok()
}

/// First byte and whole length in `bytes 5-9/10` or `bytes */10`.
fn range(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (span, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    Some((span.split_once('-').and_then(|(first, _)| first.parse().ok()), total.parse().ok()))
}
