//! How does one command train on several GPUs of this machine? It starts itself once more for each of them, tells each which rank it is
//! in torchrun's variables, and stays to pass signals on, to end all when one is lost, and to say which one that was.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ijepa_tensor::cuda::driver::Driver;
use rustix::process::{Pid, Signal, kill_process};

use super::{launch, nccl};
use crate::device;
use crate::exit::{Exit, Failure};
use crate::output;

/// Which GPUs there are for a process, and how it counts them.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Whether NCCL sums in the switch between GPUs.
const NVLS: &str = "NCCL_NVLS_ENABLE";
/// The process that started a rank.
const LAUNCHER: &str = "IJEPA_LAUNCHER";
/// The largest number of a GPU: beyond it there is a slip of the keyboard.
const LARGEST: usize = 1023;
/// Between two looks at the ranks.
const EVERY: Duration = Duration::from_millis(20);

/// How long ranks stay when one has failed: first of their own will, then after SIGTERM.
#[derive(Clone, Copy, Debug)]
struct Grace {
    own: Duration,
    asked: Duration,
}

/// Ranks find out by themselves that one has failed, and say so; one that waits for it on a GPU does not.
const GRACE: Grace = Grace { own: Duration::from_secs(5), asked: Duration::from_secs(10) };

/// Reads a list of GPUs, `0-3,6`: in this order, the first one is the first rank's.
///
/// # Errors
/// When it is no such list, or names a GPU twice (code 2).
pub(crate) fn gpus(list: &str) -> Result<Vec<usize>> {
    let wrong = |part: &str, why: &str| {
        Failure::usage(format!("GPUs `{list}`: `{part}` {why}"))
            .remedy("numbers and ranges, counted from 0, such as 0-3,6")
    };
    let mut gpus = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse().ok().filter(|number| *number <= LARGEST);
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(wrong(part, "is neither a number nor a range of numbers").into());
        };
        if first > last {
            return Err(wrong(part, "counts downwards").into());
        }
        if let Some(twice) = (first..=last).find(|gpu| gpus.contains(gpu)) {
            return Err(wrong(part, &format!("names GPU {twice} a second time")).into());
        }
        gpus.extend(first..=last);
    }
    Ok(gpus)
}

/// Whether [`run`] started this process, as a rank.
pub(crate) fn is_rank() -> bool {
    std::env::var_os(LAUNCHER).is_some()
}

/// Lets the system send this rank SIGTERM when the thread that started it has gone, as happens when [`run`]'s process is killed: no rank is
/// left behind. Nothing for a process that is no rank.
///
/// # Errors
/// When it has gone already.
pub(crate) fn end_with_launcher() -> Result<()> {
    let Some(launcher) = std::env::var(LAUNCHER).ok().and_then(|text| text.parse::<u32>().ok()) else { return Ok(()) };
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).context("cannot ask for a signal")?;
    if std::os::unix::process::parent_id() == launcher {
        return Ok(());
    }
    Err(Failure::new(Exit::Device, format!("process {launcher}, which started this rank, has gone")).into())
}

/// Refuses what every rank would meet, so that it is said once.
///
/// # Errors
/// When a launcher started this process as one of several, or there is no such GPU, no driver or no NCCL.
pub(crate) fn check(gpus: &[usize]) -> Result<()> {
    if let Some(launched) = launch::launched() {
        let problem = format!(
            "{} processes were started already ({}), each of them would start others",
            launched.size, launched.variable
        );
        return Err(Failure::usage(problem).remedy("leave out the list of GPUs, or start the program once").into());
    }
    let count = Driver::open().and_then(|driver| driver.count()).map_err(|error| device::failure(error.into()))?;
    if let Some(gpu) = gpus.iter().find(|gpu| **gpu >= count) {
        let problem = format!("--gpus: there is no GPU {gpu}, the driver shows {count}, counted from 0");
        return Err(Failure::new(Exit::Device, problem)
            .remedy("a shorter list; nvidia-smi lists them, and CUDA_VISIBLE_DEVICES may hide some")
            .into());
    }
    nccl::is_there()
}

/// Starts this program, with the arguments that it has, once for each GPU, and stays until all ranks have ended.
///
/// # Errors
/// When a rank cannot be started, or is lost.
pub(crate) fn run(gpus: &[usize]) -> Result<Exit> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let signals = [Signal::INT, Signal::TERM, Signal::USR1].map(|signal| (signal, Arc::new(AtomicBool::new(false))));
    for (signal, asked) in &signals {
        signal_hook::flag::register(signal.as_raw(), Arc::clone(asked)).context("cannot watch for signals")?;
    }
    let again = || {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1));
        command
    };
    Ranks::start(gpus, std::env::var(VISIBLE).ok().as_deref(), again)?.stay(&signals, GRACE)
}

/// The processes.
struct Ranks(Vec<Rank>);

struct Rank {
    gpu: usize,
    child: Child,
    /// Once it has ended.
    ended: Option<ExitStatus>,
}

impl Ranks {
    fn start(gpus: &[usize], visible: Option<&str>, command: impl Fn() -> Command) -> Result<Ranks> {
        let visible = shown(gpus, visible)?;
        // Free a moment ago, and the first rank says so if it no longer is.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = port.context("no port is free")?.port();
        let job = format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
        let size = gpus.len().to_string();
        let mut ranks = Ranks(Vec::new());
        for (rank, &gpu) in gpus.iter().enumerate() {
            let mut command = command();
            command
                .envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string()), ("MASTER_PORT", port.to_string())])
                .envs([("WORLD_SIZE", &size), ("LOCAL_WORLD_SIZE", &size), (launch::JOB, &job), (VISIBLE, &visible)])
                .env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string())
                .env(LAUNCHER, std::process::id().to_string())
                // Sums in the switch have no fixed order; who wants them says so.
                .env(NVLS, std::env::var_os(NVLS).unwrap_or_else(|| "0".into()))
                .env_remove("TORCHELASTIC_USE_AGENT_STORE")
                .stdin(Stdio::null())
                // Ctrl-C reaches this process alone, which passes it on: once, and not twice.
                .process_group(0);
            // Where this fails, those that were started end with `ranks`.
            let child = command.spawn().map_err(|error| {
                Failure::new(Exit::Device, format!("rank {rank} of {size} (GPU {gpu}) cannot be started"))
                    .because(error)
            })?;
            ranks.0.push(Rank { gpu, child, ended: None });
        }
        Ok(ranks)
    }

    /// Stays until all have ended.
    fn stay(mut self, signals: &[(Signal, Arc<AtomicBool>)], grace: Grace) -> Result<Exit> {
        let mut first: Option<(usize, Instant)> = None;
        let mut asked = false;
        loop {
            for (signal, _) in signals.iter().filter(|(_, asked)| asked.swap(false, Ordering::Relaxed)) {
                self.send(*signal);
            }
            self.look()?;
            first = first.or_else(|| self.failed().map(|rank| (rank, Instant::now())));
            if self.0.iter().all(|rank| rank.ended.is_some()) {
                break;
            }
            let since = first.map_or(Duration::ZERO, |(_, since)| since.elapsed());
            if since > grace.own && !asked {
                asked = true;
                self.send(Signal::TERM);
            }
            if since > grace.own + grace.asked {
                self.send(Signal::KILL);
            }
            std::thread::sleep(EVERY);
        }
        match first {
            Some((rank, _)) => self.verdict(rank),
            None if self.0.iter().any(|rank| code(rank) == Some(Exit::Stopped)) => Ok(Exit::Stopped),
            None => Ok(Exit::Done),
        }
    }

    /// Sees who has ended.
    fn look(&mut self) -> Result<()> {
        for rank in self.0.iter_mut().filter(|rank| rank.ended.is_none()) {
            rank.ended = rank.child.try_wait().context("a rank cannot be waited for")?;
        }
        Ok(())
    }

    /// A rank that has failed: rather one that was killed, after which others fail too. Those that stopped after saving have not, and may
    /// be waited for by none: the first rank still writes.
    fn failed(&self) -> Option<usize> {
        let killed = self.0.iter().position(|rank| rank.ended.is_some_and(|ended| ended.signal().is_some()));
        let failed = |rank: &Rank| rank.ended.is_some() && !matches!(code(rank), Some(Exit::Done | Exit::Stopped));
        killed.or_else(|| self.0.iter().position(failed))
    }

    /// What the failure of a rank means for all.
    fn verdict(&self, number: usize) -> Result<Exit> {
        let (rank, size) = (&self.0[number], self.0.len());
        let mut problem = format!("rank {number} of {size} (GPU {}, process {})", rank.gpu, rank.child.id());
        let status = rank.ended.expect("it has ended");
        if let Some(signal) = status.signal() {
            let _ = write!(problem, " is lost: signal {signal} ended it"); // into a string: cannot fail
            if signal == Signal::KILL.as_raw() {
                problem.push_str(" (its own output may say why; when a machine runs out of memory, nothing does)");
            }
            problem.push_str(", and with it the run");
            let remedy = "go on from the last checkpoint with --resume";
            return Err(Failure::new(Exit::Device, problem).remedy(remedy).into());
        }
        match code(rank) {
            // It has said why.
            Some(exit) => {
                output::note(&format!("{problem} ended with code {}, and with it the run", exit as u8));
                Ok(exit)
            }
            None => {
                let code = status.code().unwrap_or_default();
                Err(Failure::new(Exit::Failed, format!("{problem} ended with code {code}, and with it the run")).into())
            }
        }
    }

    fn send(&self, signal: Signal) {
        // A process that has ended and was not waited for yet keeps its number, so no other one can be meant.
        for rank in self.0.iter().filter(|rank| rank.ended.is_none()) {
            let _ = kill_process(Pid::from_child(&rank.child), signal);
        }
    }
}

/// No rank is left behind.
impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in self.0.iter_mut().filter(|rank| rank.ended.is_none()) {
            let _ = rank.child.kill().and_then(|()| rank.child.wait());
        }
    }
}

/// The code that a rank ended with, where it is one of ours.
fn code(rank: &Rank) -> Option<Exit> {
    let code = u8::try_from(rank.ended?.code()?).ok()?;
    Some(Exit::of(code)).filter(|exit| *exit as u8 == code)
}

/// The GPUs as CUDA shall show them to every rank, which then counts them from 0: names of `visible`, where this process sees some alone.
fn shown(gpus: &[usize], visible: Option<&str>) -> Result<String> {
    let names: Option<Vec<&str>> =
        visible.map(|names| names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect());
    let name = |gpu: &usize| match &names {
        None => Ok(gpu.to_string()),
        Some(names) => names.get(*gpu).map(ToString::to_string).ok_or_else(|| {
            let problem = format!("GPU {gpu}: {VISIBLE} shows {}, counted from 0 ({})", names.len(), names.join(","));
            Failure::usage(problem).remedy(format!("other numbers, or another {VISIBLE}"))
        }),
    };
    Ok(gpus.iter().map(name).collect::<Result<Vec<String>, Failure>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::rendezvous;
    use super::*;

    const QUICK: Grace = Grace { own: Duration::from_millis(200), asked: Duration::from_millis(300) };

    fn start(size: usize, script: &str) -> Ranks {
        let gpus: Vec<usize> = (0..size).map(|rank| 10 + rank).collect();
        let shell = || {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        Ranks::start(&gpus, None, shell).expect("they start")
    }

    fn ends(size: usize, script: &str) -> Result<Exit> {
        start(size, script).stay(&[], QUICK)
    }

    #[test]
    fn lists_of_gpus_are_numbers_and_ranges_in_the_order_that_was_asked_for() {
        assert_eq!(gpus("0-3,6").expect("a list"), [0, 1, 2, 3, 6]);
        assert_eq!(gpus(" 2 , 0-1").expect("a list"), [2, 0, 1]);
        for (list, why) in [
            ("", "neither"),
            ("0,,1", "neither"),
            ("a", "neither"),
            ("1-", "neither"),
            ("-1", "neither"),
            ("0-99999999", "neither"),
            ("3-1", "downwards"),
            ("0-3,2", "GPU 2 a second time"),
        ] {
            let error = gpus(list).expect_err(list);
            assert!(crate::exit::code(&error) == Exit::Usage && error.to_string().contains(why), "{list}: {error}");
        }
    }

    #[test]
    fn gpus_are_counted_among_those_that_this_process_sees() {
        assert_eq!(shown(&[0, 2], None).expect("all are seen"), "0,2");
        assert_eq!(shown(&[2, 0], Some("4, 5,GPU-8f")).expect("three are seen"), "GPU-8f,4");
        let error = shown(&[3], Some("4,5,6")).expect_err("three are seen");
        assert!(error.to_string().contains("shows 3, counted from 0 (4,5,6)"), "{error}");
        assert!(shown(&[0], Some("")).is_err());
    }

    #[test]
    fn every_rank_is_told_which_one_it_is_and_where_all_meet() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().display();
        let script = format!(
            "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $CUDA_VISIBLE_DEVICES $MASTER_ADDR $MASTER_PORT $IJEPA_JOB > {out}/$RANK"
        );
        assert_eq!(ends(3, &script).expect("all end well"), Exit::Done);
        let said = |rank: usize| std::fs::read_to_string(folder.path().join(rank.to_string())).expect("it wrote");
        let [first, second, third] = [0, 1, 2].map(said);
        assert!(first.starts_with("0 0 3 3 10,11,12 127.0.0.1 "), "{first}");
        assert!(third.starts_with("2 2 3 3 10,11,12 127.0.0.1 "), "{third}");
        assert_eq!(first.split(' ').skip(5).collect::<Vec<_>>(), second.split(' ').skip(5).collect::<Vec<_>>());
        assert_eq!(first.split_whitespace().last().map(str::len), Some(32));
    }

    #[test]
    fn the_code_of_the_first_rank_that_fails_is_that_of_all() {
        assert_eq!(ends(2, "exit $((3 * RANK))").expect("it said why"), Exit::Data);
        assert_eq!(ends(3, "exit 75").expect("all have saved"), Exit::Stopped);
        let error = ends(2, "exit $((101 * RANK))").expect_err("nobody knows this code");
        assert!(
            error.to_string().contains("rank 1 of 2 (GPU 11, process ") && error.to_string().contains("code 101"),
            "{error}"
        );
        assert_eq!(crate::exit::code(&error), Exit::Failed);
    }

    #[test]
    fn a_rank_that_is_killed_is_named_and_ends_the_others_even_those_that_do_not_listen() {
        let began = Instant::now();
        let script = "case $RANK in 2) kill -9 $$;; 1) trap '' TERM;; esac; while :; do sleep 0.05; done";
        let error = ends(3, script).expect_err("a rank is lost");
        assert!(error.to_string().starts_with("rank 2 of 3 (GPU 12, process "), "{error}");
        assert!(error.to_string().contains("is lost: signal 9 ended it"), "{error}");
        assert_eq!(crate::exit::code(&error), Exit::Device);
        assert!(began.elapsed() >= QUICK.own + QUICK.asked, "those that do not listen have their time");
    }

    #[test]
    fn signals_are_passed_on_and_ranks_have_the_time_they_need_to_save() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().display();
        // The first rank writes for longer than a failure would be waited for.
        let script =
            format!("trap 'sleep $((1 - RANK)); exit 75' TERM; touch {out}/$RANK; while :; do sleep 0.05; done");
        let ranks = start(2, &script);
        while !(folder.path().join("0").exists() && folder.path().join("1").exists()) {
            std::thread::sleep(EVERY);
        }
        let asked = [(Signal::INT, Arc::default()), (Signal::TERM, Arc::new(AtomicBool::new(true)))];
        assert_eq!(ranks.stay(&asked, QUICK).expect("all have saved"), Exit::Stopped);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_rank_that_cannot_be_started_leaves_none_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("process");
        let said = || std::fs::read_to_string(&path).unwrap_or_default();
        let first = std::cell::Cell::new(true);
        let second_is_missing = || {
            let mut command = Command::new("/nowhere/program");
            if first.replace(false) {
                command = Command::new("sh");
                command.args(["-c", &format!("echo $$ > {}; exec sleep 600", path.display())]);
            } else {
                while !said().ends_with('\n') {
                    std::thread::sleep(EVERY);
                }
            }
            command
        };
        let error = Ranks::start(&[0, 1], None, second_is_missing).err().expect("there is no such program");
        assert!(error.to_string().starts_with("rank 1 of 2 (GPU 1) cannot be started"), "{error}");
        assert!(!std::path::Path::new("/proc").join(said().trim()).exists());
    }

    /// Tells a process of this test program that it is a launcher, and where its ranks write.
    const PART: &str = "IJEPA_TEST_LAUNCHER";

    /// What [`run`] starts in the test below: a launcher, and ranks that meet and then stay.
    #[test]
    fn a_process_that_no_test_started_launches_nothing() {
        let Some(folder) = std::env::var_os(PART) else {
            assert!(!is_rank());
            return end_with_launcher().expect("it is no rank");
        };
        if !is_rank() {
            let exit = run(&[3, 4]).expect("both ranks end");
            std::process::exit(exit as i32);
        }
        end_with_launcher().expect("the launcher is there");
        let rank = launch::local_rank().expect("it was told");
        let meeting = rendezvous::Meeting::told(rank, 2).expect("it was told");
        let got = meeting.share(Duration::from_secs(60), || Ok([42])).expect("the other one comes");
        let path = std::path::Path::new(&folder).join(rank.to_string());
        std::fs::write(path, format!("{} {}", got[0], std::process::id())).expect("the folder is there");
        let stop = crate::stop::Stop::on_signals().expect("signals can be watched");
        while !stop.asked() {
            std::thread::sleep(EVERY);
        }
        std::process::exit(Exit::Stopped as i32);
    }

    /// A launcher, once its two ranks have met, and the processes of these.
    #[cfg(target_os = "linux")]
    fn launched(folder: &std::path::Path) -> (Child, Vec<String>) {
        let mut launcher = Command::new(std::env::current_exe().expect("this program has a name"))
            .args(["distributed::spawn::tests::a_process_that_no_test_started_launches_nothing", "--exact"])
            .env(PART, folder)
            .env_remove(VISIBLE)
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let said = |rank: usize| std::fs::read_to_string(folder.join(rank.to_string())).unwrap_or_default();
        let mut process = |rank: usize| {
            while !said(rank).starts_with("42 ") {
                assert!(launcher.try_wait().expect("it is ours").is_none(), "the launcher has ended");
                std::thread::sleep(EVERY);
            }
            said(rank)[3..].to_owned()
        };
        let processes = [process(0), process(1)].into();
        (launcher, processes)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn ranks_meet_stop_together_and_do_not_outlive_their_launcher() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut launcher, _) = launched(folder.path());
        kill_process(Pid::from_child(&launcher), Signal::INT).expect("it is there");
        assert_eq!(launcher.wait().expect("it ends").code(), Some(Exit::Stopped as i32));

        let folder = tempfile::tempdir().expect("a folder");
        let (mut launcher, ranks) = launched(folder.path());
        launcher.kill().and_then(|()| launcher.wait()).expect("it can be killed");
        let is_there = |process: &String| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        while ranks.iter().any(is_there) {
            std::thread::sleep(EVERY);
        }
    }
}
