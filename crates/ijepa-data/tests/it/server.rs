//! A web server that behaves as badly as it is told, for the tests of downloads.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What it does wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manners {
    /// Whether it serves parts.
    pub(crate) ranges: bool,
    /// Of so many connections, the last is cut after half of the body.
    pub(crate) cuts_every: Option<u64>,
    /// The status it always answers with.
    pub(crate) status: Option<u16>,
}

#[derive(Debug)]
struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    manners: Manners,
    connections: AtomicU64,
    parts: AtomicU64,
    bytes: AtomicU64,
    stopped: AtomicBool,
    /// Whether bodies of more than a few bytes stop in the middle, and how many of them wait there.
    gate: Mutex<(bool, u64)>,
    moved: Condvar,
}

/// Serves files until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: String,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) fn start(manners: Manners, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Shared {
            files: Mutex::new(files.into_iter().collect()),
            manners,
            connections: AtomicU64::new(0),
            parts: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            gate: Mutex::default(),
            moved: Condvar::new(),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if served.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let served = Arc::clone(&served);
                // A reader that goes away is no failure of the server.
                std::thread::spawn(move || served.answer(stream).ok());
            }
        });
        Server { address, shared }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn replace(&self, name: &str, content: Vec<u8>) {
        self.shared.files.lock().expect("no thread panics").insert(name.to_owned(), content);
    }

    /// From now on there is nothing.
    pub(crate) fn forget(&self) {
        self.shared.files.lock().expect("no thread panics").clear();
    }

    /// Holds bodies in their middle, or lets them go on.
    pub(crate) fn hold(&self, hold: bool) {
        self.shared.gate.lock().expect("no thread panics").0 = hold;
        self.shared.moved.notify_all();
    }

    /// Waits until a body is held.
    pub(crate) fn wait_for_one_held(&self) {
        let gate = self.shared.gate.lock().expect("no thread panics");
        drop(self.shared.moved.wait_while(gate, |(_, held)| *held == 0).expect("no thread panics"));
    }

    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Answers that began behind the first byte.
    pub(crate) fn parts(&self) -> u64 {
        self.shared.parts.load(Ordering::SeqCst)
    }

    /// Of bodies, as far as they were sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let head: Vec<String> = BufReader::new(stream.try_clone()?)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        let header = |name: &str| {
            let fields = head.iter().filter_map(|line| line.split_once(": "));
            fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
        };
        let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let name = path.split('?').next().unwrap_or_default().trim_start_matches('/');
        let content = self.files.lock().expect("no thread panics").get(name).cloned();
        let (status, content) = match (self.manners.status, content) {
            (Some(status), _) => (status, Vec::new()),
            (None, None) => (404, Vec::new()),
            (None, Some(content)) => (200, content),
        };
        let sum = content.iter().fold(7u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let etag = format!("\"{sum:x}\"");
        let total = content.len();
        let span = header("range").filter(|_| status == 200 && self.manners.ranges);
        let span = span.filter(|_| header("if-range").is_none_or(|version| version == etag));
        let span = span.and_then(|span| {
            let (first, last) = span.strip_prefix("bytes=")?.split_once('-')?;
            let first: usize = first.parse().ok()?;
            Some((first, last.parse().map_or(total, |last: usize| total.min(last + 1))))
        });
        let (first, end) = span.unwrap_or((0, total));
        let status = if span.is_some() { 206 } else { status };
        self.parts.fetch_add(u64::from(first > 0), Ordering::SeqCst);
        let part = format!("Content-Range: bytes {first}-{}/{total}\r\n", end.saturating_sub(1));
        let part = if span.is_some() { part } else { String::new() };
        let length = end - first;
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{part}ETag: {etag}\r\nConnection: close\r\n\r\n"
        )?;
        let cut = self.manners.cuts_every.is_some_and(|every| number.is_multiple_of(every));
        let end = if cut { first + length / 2 } else { end };
        for (number, chunk) in content[first..end].chunks(1 << 14).enumerate() {
            if number > 0 && number == length >> 15 {
                self.pass_the_gate();
            }
            // Counted first: the reader may look as soon as it has them.
            self.bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            stream.write_all(chunk)?;
        }
        stream.flush()
    }

    fn pass_the_gate(&self) {
        let mut gate = self.gate.lock().expect("no thread panics");
        gate.1 += u64::from(gate.0);
        self.moved.notify_all();
        drop(self.moved.wait_while(gate, |(held, _)| *held).expect("no thread panics"));
    }
}
