//! What do ranks say when they meet, byte for byte?

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// First bytes of all that is said; the last one is the version of this.
pub(super) const MAGIC: [u8; 8] = *b"ijepa \x00\x01";
/// Magic word, job, number of ranks, rank.
pub(super) const HELLO: usize = MAGIC.len() + 32 + 4 + 4;
/// Magic word, verdict, bytes that follow.
pub(super) const HEAD: usize = MAGIC.len() + 1 + 2;
/// Bytes that follow, at most.
pub(super) const CONTENT: usize = 1024;

/// Verdicts.
pub(super) const TAKEN: u8 = 0;
pub(super) const REFUSED: u8 = 1;

/// What a rank says when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) token: [u8; 32],
    pub(super) size: u32,
    pub(super) rank: u32,
}

impl Hello {
    pub(super) fn bytes(self) -> Vec<u8> {
        [&MAGIC[..], &self.token, &self.size.to_le_bytes(), &self.rank.to_le_bytes()].concat()
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Hello> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (token, rest) = rest.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let rank = rest.try_into().ok()?;
        Some(Hello { token: *token, size: u32::from_le_bytes(*size), rank: u32::from_le_bytes(rank) })
    }
}

/// What the first rank answers.
pub(super) struct Answer {
    pub(super) verdict: u8,
    pub(super) content: Vec<u8>,
}

pub(super) fn say(mut stream: &TcpStream, verdict: u8, content: &[u8]) -> std::io::Result<()> {
    let content = &content[..content.len().min(CONTENT)];
    let len = u16::try_from(content.len()).expect("at most CONTENT");
    // It is less than any system holds for a connection, so nothing waits.
    stream.write_all(&[&MAGIC[..], &[verdict], &len.to_le_bytes(), content].concat())
}

/// Fills the buffer before `end`, however slowly the bytes come.
pub(super) fn read(stream: &mut TcpStream, buffer: &mut [u8], end: Instant) -> Result<(), String> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("it did not answer".to_owned());
        }
        let count = stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer[filled..]));
        match count {
            Ok(0) => return Err("it closed the connection without an answer".to_owned()),
            Ok(count) => filled += count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
