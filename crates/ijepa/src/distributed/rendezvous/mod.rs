//! How do the ranks of a run find each other?
//!
//! GPUs work together over NCCL, and NCCL wants to be told 128 bytes, the same on every rank, that it gave to the first one. The
//! first rank listens at a place that the launcher's variables tell all ranks, waits until all others have come, and hands them
//! out. Nothing else ever travels here.
//!
//! A port is open to others: to another job with the same address, to a scanner, to a process that was started twice. So every
//! rank says a magic word, the job that it belongs to and its number; who says anything else is sent away and disturbs nobody. The
//! name of a job is no secret, so this keeps mistakes out and not attackers: training belongs into a network that is one's own, as
//! NCCL's own traffic does.

mod hall;
mod place;
mod words;

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::exit::{self, Exit, Failure};
use hall::{Hall, ranks};
use words::{Answer, CONTENT, HEAD, Hello, MAGIC, REFUSED, TAKEN, read};

/// How long who has connected may take to say who it is, and how long one connection may take to be made.
const SHORTLY: Duration = Duration::from_secs(5);
/// Between two looks at the port, and between two tries to connect.
const LOOK: Duration = Duration::from_millis(10);
const TRY: Duration = Duration::from_millis(100);

/// Where the ranks of a run meet, as one of them knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    pub(super) rank: usize,
    pub(super) size: usize,
    address: String,
    port: u16,
    /// What the ranks of one job, and of one version of the program, have in common.
    token: [u8; 32],
}

impl Meeting {
    /// What the first rank knows, on all ranks. `own` is called on the first one, once all others have come.
    ///
    /// # Errors
    /// When the port cannot be had, a rank has not come after `patience`, or this one is not expected; when `own` fails on the
    /// first rank.
    pub(super) fn share<const N: usize>(
        &self,
        patience: Duration,
        own: impl FnOnce() -> Result<[u8; N]>,
    ) -> Result<[u8; N]> {
        if self.rank > 0 {
            return self.ask(patience);
        }
        if self.size == 1 {
            return own();
        }
        self.hand_out(&self.listen()?, patience, own)
    }

    fn listen(&self) -> Result<TcpListener> {
        let here = ["127.0.0.1", "::1", "localhost"].contains(&self.address.as_str());
        let bound = if here {
            TcpListener::bind((self.address.as_str(), self.port))
        } else {
            // All of its addresses: the name may be one of several, or stand for 127.0.1.1 on the machine itself.
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, self.port))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.port)))
        };
        let place = self.place();
        Ok(bound.map_err(|error| {
            Failure::new(Exit::Device, format!("rank 0 cannot listen at {place}, where the other ranks look for it"))
                .because(error)
                .remedy("where another program has the port, set another MASTER_PORT for all ranks")
        })?)
    }

    fn place(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// The first rank's part.
    fn hand_out<const N: usize>(
        &self,
        listener: &TcpListener,
        patience: Duration,
        own: impl FnOnce() -> Result<[u8; N]>,
    ) -> Result<[u8; N]> {
        let began = Instant::now();
        listener.set_nonblocking(true)?;
        let mut hall = Hall::of(self);
        while !hall.is_complete() {
            hall.look(listener);
            if began.elapsed() > patience {
                let failure = hall.incomplete(patience);
                hall.answer(REFUSED, failure.to_string().as_bytes());
                return Err(failure.into());
            }
            std::thread::sleep(LOOK);
        }
        let own = own();
        let lost = match &own {
            Ok(own) => hall.answer(TAKEN, own),
            Err(error) => hall.answer(REFUSED, format!("rank 0: {}", exit::describe(error)).as_bytes()),
        };
        let own = own?;
        if lost.is_empty() {
            return Ok(own);
        }
        let problem = format!("{} came to {} and went before all were there", ranks(&lost), self.place());
        Err(Failure::new(Exit::Device, problem).remedy("its own output may say why").into())
    }

    /// The part of all others.
    fn ask<const N: usize>(&self, patience: Duration) -> Result<[u8; N]> {
        let end = Instant::now() + patience;
        let mut last = "it was not tried".to_owned();
        while Instant::now() < end {
            match self.ask_once(end) {
                Ok(Answer { verdict: TAKEN, content }) => {
                    return Ok(content.try_into().map_err(|content: Vec<u8>| {
                        Failure::new(Exit::Device, format!("rank 0 sent {} bytes, expected {N}", content.len()))
                            .remedy("start the same program on all machines")
                    })?);
                }
                Ok(Answer { content, .. }) => {
                    let text = String::from_utf8_lossy(&content);
                    let problem = format!("rank {} at {}: {text}", self.rank, self.place());
                    return Err(Failure::new(Exit::Device, problem).into());
                }
                Err(problem) => last = problem,
            }
            std::thread::sleep(TRY.min(end.saturating_duration_since(Instant::now())));
        }
        let problem = format!(
            "rank {} of {} has looked for rank 0 at {} for {} s: {last}",
            self.rank,
            self.size,
            self.place(),
            patience.as_secs()
        );
        let remedy = "see what rank 0 says; where it runs on another machine, set MASTER_ADDR to an address of that machine which all others \
                      reach, and MASTER_PORT to a port that is open there, for all ranks";
        Err(Failure::new(Exit::Device, problem).remedy(remedy).into())
    }

    /// One connection; the error says why it came to nothing.
    fn ask_once(&self, end: Instant) -> Result<Answer, String> {
        let said = |error: std::io::Error| error.to_string();
        let addresses: Vec<SocketAddr> = (self.address.as_str(), self.port).to_socket_addrs().map_err(said)?.collect();
        let mut connected = Err("the name has no address".to_owned());
        for address in addresses {
            connected = TcpStream::connect_timeout(&address, SHORTLY).map_err(said);
            if connected.is_ok() {
                break;
            }
        }
        let mut stream = connected?;
        let hello = Hello { token: self.token, size: self.size as u32, rank: self.rank as u32 };
        stream.set_write_timeout(Some(SHORTLY)).and_then(|()| stream.write_all(&hello.bytes())).map_err(said)?;
        let mut head = [0; HEAD];
        read(&mut stream, &mut head, end)?;
        let content = usize::from(u16::from_le_bytes([head[HEAD - 2], head[HEAD - 1]]));
        if head[..MAGIC.len()] != MAGIC || content > CONTENT {
            return Err("what answers there is not rank 0 of this program".to_owned());
        }
        let mut content = vec![0; content];
        read(&mut stream, &mut content, end)?;
        Ok(Answer { verdict: head[MAGIC.len()], content })
    }
}

#[cfg(test)]
mod tests;
