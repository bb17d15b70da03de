//! Are the other ranks still there? A thread looks after those on this machine, and at the clock while this rank waits.
//!
//! A message that never comes is waited for without an end, so the thread ends the process: with the name of the rank that is gone, or
//! after `distributed.timeout_minutes` without an answer. What happens on other machines is the launcher's to see: `mpirun` and `srun`
//! end all ranks when one is lost.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::exit::Exit;
use crate::output;

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// How long the rank that speaks stays afterwards: the others must find the lost rank before they find it.
const LINGER: Duration = Duration::from_millis(500);

/// A rank on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbour {
    rank: usize,
    process: u32,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    /// Milliseconds since `began` at which this rank began to wait, and 1 more; 0 while it does not wait.
    waiting: AtomicU64,
    /// Milliseconds that it waits.
    patience: AtomicU64,
    over: AtomicBool,
}

/// The thread. Dropping it sends it home.
#[derive(Debug)]
pub(super) struct Watchman(Arc<Shared>);

impl Watchman {
    /// Looks after `neighbours`, this rank among them, from now on.
    pub(super) fn start(rank: usize, neighbours: Vec<Neighbour>) -> Watchman {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            waiting: AtomicU64::new(0),
            patience: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
        });
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || watched.watch(rank, &neighbours));
        Watchman(shared)
    }

    /// From now on this rank waits no longer than that for the others.
    pub(super) fn set_patience(&self, patience: Duration) {
        self.0.patience.store(patience.as_millis() as u64, Ordering::Relaxed);
    }

    /// Does what may wait for other ranks.
    pub(super) fn waiting<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.waiting.store(self.0.now() + 1, Ordering::Relaxed);
        let done = work();
        self.0.waiting.store(0, Ordering::Relaxed);
        done
    }

    /// From now on ranks may go.
    pub(super) fn end(&self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Watchman {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn watch(&self, rank: usize, neighbours: &[Neighbour]) {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(EVERY);
            let (gone, there): (Vec<Neighbour>, Vec<Neighbour>) =
                neighbours.iter().copied().partition(|neighbour| neighbour.rank != rank && is_gone(neighbour.process));
            let waiting = self.waiting.load(Ordering::Relaxed);
            let waited = if waiting == 0 { 0 } else { (self.now() + 1).saturating_sub(waiting) };
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            if let Some(lost) = gone.first() {
                // One voice on each machine.
                if there.first().is_some_and(|first| first.rank == rank) {
                    output::error(&format!(
                        "rank {} is lost: its process {} is gone (its own output may say why; when a machine runs out of memory, nothing does), \
                         and with it the run ends\n  try: go on from the last checkpoint with --resume, with as many ranks as there are",
                        lost.rank, lost.process
                    ));
                    std::thread::sleep(LINGER);
                }
                end();
            }
            if waited > self.patience.load(Ordering::Relaxed) {
                output::error(&format!(
                    "rank {rank} has waited {:.1} minutes for the other ranks: one hangs, or cannot be reached\n  \
                     try: go on from the last checkpoint with --resume; a longer distributed.timeout_minutes where a step, its data or eval.every takes so long",
                    waited as f64 / 60_000.0
                ));
                end();
            }
        }
    }
}

/// Ends the process at once: whoever waits for a message cannot be called back.
fn end() -> ! {
    signal_hook::low_level::exit(Exit::Device as i32)
}

/// Whether a process is no more, or only its number is left for its parent to see.
fn is_gone(process: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        // The state follows the name, which is in brackets and may hold any character.
        Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The ranks on this machine, this one among them; `gather` brings the values of all ranks, in their order.
pub(super) fn neighbours<E>(gather: impl FnOnce([f64; 2]) -> Result<Vec<f64>, E>) -> Result<Vec<Neighbour>, E> {
    let machine = machine().map_or(f64::NAN, |name| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        (hasher.finish() >> 11) as f64 // 53 bits: exact
    });
    let all = gather([machine, f64::from(std::process::id())])?;
    let here = all.chunks_exact(2).enumerate().filter(|(_, values)| values[0] == machine);
    Ok(here.map(|(rank, values)| Neighbour { rank, process: values[1] as u32 }).collect())
}

/// What processes that see each other's numbers have in common: the boot of the machine and the space of numbers. Nothing where the
/// system does not say.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), space.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_there_until_it_is_killed_even_if_nobody_has_waited_for_it() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("it starts");
        assert!(!is_gone(child.id()) && !is_gone(std::process::id()));
        child.kill().expect("it can be killed");
        while !is_gone(child.id()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().expect("it has ended");
        assert!(is_gone(child.id()));
    }
}
