//! Who started this process, as one of how many? Launchers tell in variables of the environment.

use std::num::NonZeroUsize;

/// Number of processes and which of them this is, as the launchers name them: Open MPI's mpirun, those of MPICH's family, srun, torchrun.
/// SLURM_NTASKS is not among them: it stands in the environment of a batch script too, which is one process.
const LAUNCHERS: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("WORLD_SIZE", "RANK"),
];

/// Processes on this machine, likewise. SLURM's is a list of machines: `4(x2),3`.
const ON_THIS_MACHINE: [&str; 4] =
    ["LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"];

/// Which of them this is, likewise.
const AMONG_THEM: [&str; 4] = ["LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"];

/// What our own launcher calls a job.
pub(super) const JOB: &str = "IJEPA_JOB";

/// One of several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launched {
    /// How many.
    pub(super) size: usize,
    /// Which, from 0.
    pub(super) rank: usize,
    /// The variable that says so.
    pub(super) variable: &'static str,
}

/// Whether a launcher started this process as one of several.
pub(super) fn launched() -> Option<Launched> {
    launched_by(|name| std::env::var(name).ok())
}

fn launched_by(variable: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    LAUNCHERS.into_iter().find_map(|(size_name, rank_name)| {
        let size = number(size_name).filter(|size| *size > 1)?;
        Some(Launched { size, rank: number(rank_name).unwrap_or(0), variable: size_name })
    })
}

/// Threads for each of several processes on this machine where none is bound to cores of its own: their share of the cores.
/// Nothing where one process has them all, or where the launcher has shared them out.
pub(crate) fn threads() -> Option<NonZeroUsize> {
    launched()?;
    let here = ON_THIS_MACHINE.into_iter().find_map(|name| most(&std::env::var(name).ok()?))?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = count(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())?;
    let all = count(std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?.trim())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if here > 1 && allowed == all { NonZeroUsize::new((cores / here).max(1)) } else { None }
}

/// Which of the processes on this machine this is, from 0, and so which of its GPUs is this one's. Nothing where no launcher says so.
pub(crate) fn local_rank() -> Option<usize> {
    local_rank_by(|name| std::env::var(name).ok())
}

fn local_rank_by(variable: impl Fn(&str) -> Option<String>) -> Option<usize> {
    AMONG_THEM.into_iter().find_map(|name| variable(name)?.trim().parse().ok())
}

/// The largest number of a list such as `4(x2),3`.
fn most(list: &str) -> Option<usize> {
    list.split(',').filter_map(|part| part.split('(').next()?.trim().parse().ok()).max()
}

/// Numbers in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    list.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            Some((last + 1).saturating_sub(first))
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_launcher_is_known_and_a_lone_process_is_alone() {
        let said = |variables: &'static [(&str, &str)]| {
            launched_by(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        let of = |launched: Option<Launched>| launched.map(|launched| (launched.rank, launched.size));
        assert_eq!(of(said(&[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1")])), Some((1, 2)));
        assert_eq!(of(said(&[("PMI_SIZE", "4"), ("PMI_RANK", "3")])), Some((3, 4)));
        assert_eq!(of(said(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "0")])), Some((0, 8)));
        assert_eq!(of(said(&[("WORLD_SIZE", "2"), ("RANK", "1")])), Some((1, 2)));
        assert_eq!(of(said(&[("WORLD_SIZE", "1"), ("RANK", "0")])), None);
        // A batch script that asked for four tasks and has not started them yet.
        assert_eq!(of(said(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")])), None);
        assert_eq!(of(said(&[])), None);
    }

    #[test]
    fn processes_of_a_machine_are_told_by_every_launcher() {
        assert_eq!([most("8"), most("4(x2)"), most("3,4(x2)"), most("")], [Some(8), Some(4), Some(4), None]);
    }

    #[test]
    fn every_launcher_says_which_process_of_a_machine_this_is() {
        for name in AMONG_THEM {
            assert_eq!(local_rank_by(|asked| (asked == name).then(|| "3".to_owned())), Some(3));
        }
        assert_eq!(local_rank_by(|_| None), None);
        assert_eq!(local_rank_by(|name| Some(if name == "LOCAL_RANK" { "x" } else { "1" }.to_owned())), Some(1));
    }

    #[test]
    fn lists_of_cores_are_counted() {
        assert_eq!([count("0"), count("0-3,8"), count("2-3"), count("x")], [Some(1), Some(5), Some(2), None]);
    }
}
