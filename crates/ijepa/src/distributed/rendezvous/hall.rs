//! Who has come to the first rank? Those who belong to it stay, all others are sent away, and nobody is waited for alone.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::words::{HELLO, Hello, MAGIC, REFUSED, say};
use super::{Meeting, SHORTLY};
use crate::exit::{Exit, Failure};

/// Connections that have not said who they are, at most; then the oldest goes.
const STRANGERS: usize = 128;
/// Refusals that are remembered for the error, at most.
const REMEMBERED: usize = 5;

/// Who is with the first rank.
pub(super) struct Hall<'a> {
    meeting: &'a Meeting,
    /// Connections of the ranks that have come.
    came: Vec<Option<TcpStream>>,
    strangers: Vec<Stranger>,
    /// Who was sent away, and why.
    refused: Vec<String>,
}

/// Who has not said yet who it is.
struct Stranger {
    stream: TcpStream,
    from: SocketAddr,
    said: Vec<u8>,
    since: Instant,
}

impl<'a> Hall<'a> {
    /// Nobody has come yet.
    pub(super) fn of(meeting: &'a Meeting) -> Hall<'a> {
        let came = (0..meeting.size).map(|_| None).collect();
        Hall { meeting, came, strangers: Vec::new(), refused: Vec::new() }
    }

    /// Whether all ranks are here.
    pub(super) fn is_complete(&self) -> bool {
        self.came.iter().skip(1).all(Option::is_some)
    }

    /// Lets in who is at the door, hears who has something to say, and notes who has gone.
    pub(super) fn look(&mut self, listener: &TcpListener) {
        // Refused connections and the like are the other side's concern.
        for _ in 0..STRANGERS {
            let Ok((stream, from)) = listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                self.strangers.push(Stranger { stream, from, said: Vec::new(), since: Instant::now() });
            }
            if self.strangers.len() > STRANGERS {
                self.strangers.remove(0);
            }
        }
        for mut stranger in std::mem::take(&mut self.strangers) {
            match stranger.listen() {
                Said::Hello(hello) => self.judge(stranger, hello),
                Said::NotYet if stranger.since.elapsed() < SHORTLY => self.strangers.push(stranger),
                Said::NotYet => self.note(stranger.from, "said nothing"),
                Said::Nonsense => self.note(stranger.from, "is no rank of this program"),
                Said::Gone => {}
            }
        }
        for came in &mut self.came {
            came.take_if(|stream| has_gone(stream));
        }
    }

    fn judge(&mut self, stranger: Stranger, hello: Hello) {
        let Meeting { size, token, .. } = *self.meeting;
        let (rank, told) = (hello.rank as usize, hello.size as usize);
        if let Some(came) = self.came.get_mut(rank) {
            came.take_if(|stream| has_gone(stream));
        }
        let refusal = if hello.token != token {
            "belongs to another job, or to another version of the program".to_owned()
        } else if told != size {
            format!("was started as one of {told} ranks, rank 0 as one of {size}")
        } else if rank == 0 || rank >= size {
            format!("says that it is rank {rank}; 1 to {} are expected", size - 1)
        } else if let Some(first) = &self.came[rank] {
            let from = first.peer_addr().map_or_else(|_| "elsewhere".to_owned(), |from| from.to_string());
            format!("is a second rank {rank}; the first one came from {from}")
        } else {
            self.came[rank] = Some(stranger.stream);
            return;
        };
        // Best effort: who does not listen need not know.
        let _ = say(&stranger.stream, REFUSED, format!("refused: this process {refusal}").as_bytes());
        self.note(stranger.from, &refusal);
    }

    fn note(&mut self, from: SocketAddr, refusal: &str) {
        if self.refused.len() < REMEMBERED {
            self.refused.push(format!("{from} {refusal}"));
        }
    }

    /// Tells all that have come; returns the ranks that could not be told.
    pub(super) fn answer(&self, verdict: u8, content: &[u8]) -> Vec<usize> {
        let came = self.came.iter().enumerate().filter_map(|(rank, stream)| Some((rank, stream.as_ref()?)));
        came.filter(|(_, stream)| say(stream, verdict, content).is_err()).map(|(rank, _)| rank).collect()
    }

    /// The error that names who is missing.
    pub(super) fn incomplete(&self, patience: Duration) -> Failure {
        let missing: Vec<usize> = (1..self.came.len()).filter(|rank| self.came[*rank].is_none()).collect();
        let mut problem = format!(
            "rank 0 of {} has waited {} s at {}: {} did not come",
            self.meeting.size,
            patience.as_secs(),
            self.meeting.place(),
            ranks(&missing)
        );
        for refused in &self.refused {
            let _ = write!(problem, "; {refused}"); // into a string: cannot fail
        }
        Failure::new(Exit::Device, problem).remedy(
            "see what those ranks say, and whether they were started; where they run on other machines, set MASTER_ADDR and MASTER_PORT for all",
        )
    }
}

enum Said {
    Hello(Hello),
    NotYet,
    Nonsense,
    Gone,
}

impl Stranger {
    fn listen(&mut self) -> Said {
        let mut bytes = [0; HELLO];
        match self.stream.read(&mut bytes[..HELLO - self.said.len()]) {
            Ok(0) => return Said::Gone,
            Ok(count) => self.said.extend(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Said::NotYet;
            }
            Err(_) => return Said::Gone,
        }
        let heard = self.said.len().min(MAGIC.len());
        if self.said[..heard] != MAGIC[..heard] {
            return Said::Nonsense;
        }
        Hello::of(&self.said).map_or(Said::NotYet, Said::Hello)
    }
}

/// A rank that has come says nothing more, so there is something to read only at the end.
fn has_gone(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// `rank 3`, `ranks 1, 4, 5`.
pub(super) fn ranks(ranks: &[usize]) -> String {
    let list: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, list.join(", "))
}
