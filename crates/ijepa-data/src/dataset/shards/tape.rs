//! What lies where in a tar? Its members, one header after the other, from a file or from a stream that is being unpacked.
//!
//! POSIX (ustar, pax) and GNU (long names) are read. The headers are taken apart by the `tar` crate; walking is done here, because a
//! data set has to know what that crate does not tell: that the end mark is there (else the tar was cut off between two members,
//! and would seem to be whole), where a member lies, and that no name or content asks for more memory than it may.

use std::fs::File;
use std::io::{self, BufReader, Read};

use tar::{EntryType, Header, PaxExtensions};

use crate::decode::Limits;

/// The unit of the format.
const BLOCK: usize = 512;
/// Most bytes of a name or of pax records: a path has at most a few thousand.
const WORDS_MAX: u64 = 1 << 20;
/// Most bytes after the end mark. GNU tar pads to a record, of 10 KiB unless told otherwise.
const PADDING_MAX: u64 = 1 << 20;

/// What members are read from.
pub(super) trait Tape {
    /// Reads until `out` is full or the tape ends; the number of bytes read.
    fn fill(&mut self, out: &mut [u8]) -> io::Result<usize>;
    /// Goes on by so many bytes, or to the end; the number of bytes passed.
    fn skip(&mut self, bytes: u64) -> io::Result<u64>;
    /// Whether what is passed over costs as much as what is read, as in a stream.
    fn streams(&self) -> bool;
}

/// A tar that lies in a file.
pub(super) struct Lying {
    file: BufReader<File>,
    at: u64,
    bytes: u64,
}

impl Lying {
    /// From the file's beginning.
    pub(super) fn new(file: File) -> io::Result<Lying> {
        let bytes = file.metadata()?.len();
        Ok(Lying { file: BufReader::new(file), at: 0, bytes })
    }
}

impl Tape for Lying {
    fn fill(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = fill(&mut self.file, out)?;
        self.at += count as u64;
        Ok(count)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let bytes = bytes.min(self.bytes.saturating_sub(self.at));
        self.file.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)?;
        self.at += bytes;
        Ok(bytes)
    }

    fn streams(&self) -> bool {
        false
    }
}

/// Reads until `out` is full or there is no more.
pub(super) fn fill(from: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < out.len() {
        match from.read(&mut out[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// A file in the tar.
#[derive(Debug)]
pub(super) struct Member {
    /// Its path, as it stands there. It names things in messages; nothing is ever written under it.
    pub(super) name: String,
    /// From the beginning of the tar.
    pub(super) offset: u64,
    /// Of its content.
    pub(super) bytes: u64,
}

/// The way along a tar.
pub(super) struct Walk<T> {
    tape: T,
    /// Bytes behind.
    at: u64,
    /// Where the next header begins.
    next: u64,
    /// What came last, for messages.
    last: String,
}

impl<T: Tape> Walk<T> {
    pub(super) fn new(tape: T) -> Walk<T> {
        Walk { tape, at: 0, next: 0, last: String::new() }
    }

    /// Bytes passed, and what they were read from.
    pub(super) fn end(self) -> (u64, T) {
        (self.at, self.tape)
    }

    /// The next regular file, or nothing after the end mark, when all that follows has been seen to be padding.
    pub(super) fn next(&mut self) -> Result<Option<Member>, String> {
        let (mut long_name, mut records) = (None, None);
        loop {
            self.forward(self.next)?;
            let mut header = Header::new_old();
            if !self.header(&mut header)? {
                if long_name.is_some() || records.is_some() {
                    return Err("the end mark follows a name without its member: damaged".into());
                }
                self.padding()?;
                return Ok(None);
            }
            let records_taken: Option<Records> = if extends(&header) { None } else { records.take() };
            let size = header.entry_size().map_err(|error| self.damaged(&error.to_string()))?;
            let size = match &records_taken {
                Some(Records { size: Some(size), .. }) => *size,
                _ if header.entry_type() == EntryType::Link => 0, // whatever it says, as GNU tar has it
                _ => size,
            };
            let end = size.checked_next_multiple_of(BLOCK as u64).and_then(|size| self.at.checked_add(size));
            self.next = end.ok_or_else(|| self.damaged(&format!("a member of {size} bytes")))?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.words(size)?),
                EntryType::XHeader => records = Some(Records::parse(&self.words(size)?).map_err(|e| self.damaged(&e))?),
                EntryType::GNULongLink | EntryType::XGlobalHeader => (),
                EntryType::GNUSparse => return Err(SPARSE.into()),
                kind => {
                    let path = records_taken.and_then(|records| records.path);
                    let name = path.or_else(|| long_name.take()).unwrap_or_else(|| header.path_bytes().into_owned());
                    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(&name)).into_owned();
                    long_name = None;
                    let over = Limits::default().bytes;
                    if size > over && self.tape.streams() {
                        return Err(format!("{name} has {size} bytes, over the limit of {over} for a packed member"));
                    }
                    self.last.clone_from(&name);
                    if matches!(kind, EntryType::Regular | EntryType::Continuous) {
                        return Ok(Some(Member { name, offset: self.at, bytes: size }));
                    }
                }
            }
        }
    }

    /// The content of the member that was met last.
    ///
    /// # Panics
    /// When it was read already.
    pub(super) fn content(&mut self, member: &Member) -> Result<Vec<u8>, String> {
        assert_eq!(self.at, member.offset, "the content of {} once, and of no other member", member.name);
        self.words(member.bytes)
    }

    /// The next `bytes` bytes, which are few.
    fn words(&mut self, bytes: u64) -> Result<Vec<u8>, String> {
        if bytes > WORDS_MAX {
            return Err(self.damaged(&format!("{bytes} bytes of text, at most {WORDS_MAX} are expected")));
        }
        let mut words = vec![0; bytes as usize];
        let count = self.tape.fill(&mut words).map_err(unreadable)?;
        self.at += count as u64;
        if count < words.len() { Err(self.cut_off()) } else { Ok(words) }
    }

    fn forward(&mut self, to: u64) -> Result<(), String> {
        let passed = self.tape.skip(to - self.at).map_err(unreadable)?;
        self.at += passed;
        if self.at < to { Err(self.cut_off()) } else { Ok(()) }
    }

    /// Reads one header; false at the end mark.
    fn header(&mut self, header: &mut Header) -> Result<bool, String> {
        let count = self.tape.fill(header.as_mut_bytes()).map_err(unreadable)?;
        self.at += count as u64;
        let bytes = header.as_bytes();
        if self.at == count as u64
            && let Some(kind) = other_kind(&bytes[..count])
        {
            return Err(kind.into());
        }
        if count == 0 && self.at > 0 {
            return Err(format!("ends{} without the end mark of a tar: truncated; fetch it again", self.place()));
        }
        if count < BLOCK {
            return Err(self.cut_off());
        }
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(false);
        }
        // The checksum counts its own eight bytes as spaces.
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        match header.cksum() {
            Ok(found) if found == expected => Ok(true),
            _ if self.at == BLOCK as u64 => Err("not a tar: its first header has a wrong checksum".into()),
            _ => Err(self.damaged("the next header has a wrong checksum")),
        }
    }

    /// Zeros to the end. Anything else may be a second tar, which would be lost.
    fn padding(&mut self) -> Result<(), String> {
        let mut block = [0; 8 * BLOCK];
        let mut passed = 0;
        while passed <= PADDING_MAX {
            let count = self.tape.fill(&mut block).map_err(unreadable)?;
            self.at += count as u64;
            passed += count as u64;
            if block[..count].iter().any(|&byte| byte != 0) {
                return Err("more data after the end mark of the tar: two tars in one file, of which readers see \
                            the first? Unpack and pack it again, or join tars with `tar --concatenate`"
                    .into());
            }
            if count < block.len() {
                return Ok(());
            }
        }
        Err(format!("more than {PADDING_MAX} bytes of zeros after the end mark of the tar; pack it again"))
    }

    fn place(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!(" after {}", self.last) }
    }

    fn cut_off(&self) -> String {
        let (at, place) = (self.at, self.place());
        format!("ends at byte {at}{place}, in the middle of a member: truncated; fetch it again")
    }

    fn damaged(&self, what: &str) -> String {
        format!("damaged before byte {}{}: {what}; fetch it again or leave it out", self.at, self.place())
    }
}

const SPARSE: &str = "holds a sparse member, which no reader of shards expects; pack it again without `--sparse`";

fn unreadable(error: io::Error) -> String {
    format!("cannot be read: {error}; if it is truncated or damaged, fetch it again")
}

/// Whether a header says something of the member that follows it.
fn extends(header: &Header) -> bool {
    use EntryType::{GNULongLink, GNULongName, XGlobalHeader, XHeader};
    matches!(header.entry_type(), GNULongName | GNULongLink | XHeader | XGlobalHeader)
}

/// What pax records say of the next member.
struct Records {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Records {
    fn parse(text: &[u8]) -> Result<Records, String> {
        let mut records = Records { path: None, size: None };
        for record in PaxExtensions::new(text) {
            let record = record.map_err(|error| error.to_string())?;
            match record.key_bytes() {
                b"path" => records.path = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|value| value.parse().ok());
                    records.size = Some(size.ok_or("a size that is no number")?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(SPARSE.into()),
                _ => (),
            }
        }
        Ok(records)
    }
}

/// What a file that is no tar is instead, from its first bytes.
fn other_kind(first: &[u8]) -> Option<&'static str> {
    let begins = |magic: &[u8]| first.starts_with(magic);
    match () {
        () if first.is_empty() => Some("the file is empty; fetch it again or leave it out"),
        () if begins(b"version https://git-lfs") => {
            Some("is a pointer of Git LFS and not the shard itself; run `git lfs pull`")
        }
        () if begins(b"\x1f\x8b") => Some("is packed with gzip twice; unpack it once"),
        () if begins(b"\x28\xb5\x2f\xfd") => Some("is packed with zstd; unpack it, or pack it with gzip"),
        () if begins(b"\xfd7zXZ\0") => Some("is packed with xz; unpack it, or pack it with gzip"),
        () if begins(b"BZh") => Some("is packed with bzip2; unpack it, or pack it with gzip"),
        () if begins(b"PK\x03\x04") => Some("is a zip file and not a tar; pack its content as a tar"),
        () if begins(b"<") => Some("is a web page and not a tar; check the address it came from"),
        () => None,
    }
}
