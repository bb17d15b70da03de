//! What does this machine have, what is missing, and what can be done about it?

use std::io::IsTerminal;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use ijepa_tensor::cuda::Device;
use ijepa_tensor::judge::{self, Distance};
use ijepa_tensor::roof;
use sysinfo::{Disks, System};

use crate::cli::DoctorArgs;
use crate::device::{self, Place};
use crate::distributed;
use crate::exit::Exit;
use crate::hub;
use crate::inspect::bytes;
use crate::output;

/// What was found; the JSON of `doctor`.
#[derive(serde::Serialize)]
struct Findings {
    version: &'static str,
    release_build: bool,
    system: String,
    cpu: String,
    /// Cores that this process may use, container limits counted in.
    cores: usize,
    /// Threads that commands compute with.
    threads: usize,
    /// Instruction sets that the kernels know and the CPU has, widest first.
    instructions: Vec<&'static str>,
    /// Absent where the system does not say.
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    folder: String,
    /// Space left on the disk of `folder`; absent where the system does not say.
    disk_free_bytes: Option<u64>,
    /// Checkpoints that were fetched by name.
    models: hub::Held,
    stdout_terminal: bool,
    stderr_terminal: bool,
    device: &'static str,
    /// The GPU that `--device` names.
    gpu: Option<Gpu>,
    /// Over what several processes can train together; absent where this build cannot.
    ranks: Option<&'static str>,
    nvidia_driver: bool,
    /// What to do, one sentence each; empty when all is well.
    advice: Vec<String>,
}

/// A GPU, and how it computes.
#[derive(serde::Serialize)]
struct Gpu {
    name: String,
    /// Its generation: 9.0 is sm_90.
    capability: String,
    memory_bytes: usize,
    /// Ops of the table that ran forward and backward.
    ops: usize,
    /// Those that are further from the CPU than rounding explains.
    wrong: Vec<String>,
    /// Of large products of bfloat16.
    product_gflops: f64,
    /// GPUs that the driver shows.
    count: usize,
    /// The version of NCCL, over which several train, where it computes on this one.
    nccl: Option<String>,
    /// Why it does not.
    nccl_problem: Option<String>,
}

impl Gpu {
    fn look(device: &Rc<Device>) -> Result<Gpu> {
        let distances = judge::distances(device);
        let wrong = distances.iter().filter_map(|(case, distance)| match distance {
            Ok(distance) if distance.is_rounding() => None,
            Ok(Distance { output, gradients }) => {
                Some(format!("{case:?}: off by {output:.1e}, gradients by {gradients:.1e}"))
            }
            Err(error) => Some(format!("{case:?}: {error}")),
        });
        let (major, minor) = device.gpu().capability();
        let (nccl, nccl_problem) = match distributed::try_nccl(device) {
            Ok((major, minor, patch)) => (Some(format!("{major}.{minor}.{patch}")), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Gpu {
            name: device.gpu().name().to_owned(),
            capability: format!("{major}.{minor}"),
            memory_bytes: device.gpu().memory_bytes(),
            ops: distances.len(),
            wrong: wrong.collect(),
            product_gflops: roof::product_gflops(device).map_err(device::failure)?,
            count: device::count(),
            nccl,
            nccl_problem,
        })
    }

    fn lines(&self) -> Vec<String> {
        let Gpu { name, capability, memory_bytes, ops, wrong, product_gflops, count, nccl, nccl_problem } = self;
        let mut lines = vec![
            format!("gpu       {name}, compute capability {capability}, {}", bytes(*memory_bytes as u64)),
            format!("gpu ops   {} of {ops} agree with the CPU, forward and backward", ops - wrong.len()),
            format!("gpu speed {:.1} TFLOP/s in products of bfloat16", product_gflops / 1e3),
            match nccl {
                Some(version) => {
                    format!("gpus      {count} in sight; NCCL {version}, over which several train, sums on this one")
                }
                None => {
                    let why = nccl_problem.as_deref().unwrap_or_default();
                    format!("gpus      {count} in sight; several could not train: {why}")
                }
            },
        ];
        lines.extend(wrong.iter().map(|wrong| format!("gpu wrong {wrong}")));
        lines
    }
}

/// Runs `doctor`.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit> {
    let device = Place::of(&args.device)?.open()?;
    let mut findings = look();
    findings.gpu = device.as_ref().map(Gpu::look).transpose()?;
    findings.advice = advice(&findings);
    if args.json {
        output::json(&findings)?;
    } else {
        output::result(&table(&findings))?;
    }
    let wrong = findings.gpu.is_some_and(|gpu| !gpu.wrong.is_empty());
    Ok(if wrong { Exit::Device } else { Exit::Done })
}

/// The CPU's name and the memory that this process may use, all of it and what is free; absent where the system does not say.
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) memory: Option<(u64, u64)>,
}

/// Looks at this machine.
pub(crate) fn machine() -> Machine {
    let system = System::new().ok().map(|mut system| {
        system.refresh_memory();
        system.refresh_cpu_all();
        system
    });
    let memory = system.as_ref().map(|system| match system.cgroup_limits() {
        // In a container the limit is what counts.
        Some(limits) => {
            (limits.total_memory.min(system.total_memory()), limits.free_memory.min(system.available_memory()))
        }
        None => (system.total_memory(), system.available_memory()),
    });
    let brand = system.as_ref().and_then(|system| system.cpus().first()).map(|cpu| cpu.brand().trim().to_owned());
    let cpu = brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| "unknown".into());
    Machine { cpu, memory }
}

fn look() -> Findings {
    let Machine { cpu, memory } = machine();
    let folder = std::env::current_dir().unwrap_or_default();
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        release_build: !cfg!(debug_assertions),
        system: format!(
            "{} ({})",
            System::long_os_version().unwrap_or_else(|_| "unknown".into()),
            std::env::consts::ARCH
        ),
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: ijepa_tensor::threads::count(),
        instructions: ijepa_tensor::instruction_sets(),
        memory_bytes: memory.map(|(total, _)| total),
        memory_available_bytes: memory.map(|(_, available)| available),
        disk_free_bytes: disk_free(&folder),
        folder: folder.display().to_string(),
        models: hub::held(),
        stdout_terminal: std::io::stdout().is_terminal(),
        stderr_terminal: std::io::stderr().is_terminal(),
        device: "cpu",
        gpu: None,
        ranks: distributed::BUILT_IN,
        nvidia_driver: Path::new("/proc/driver/nvidia/version").exists(),
        advice: Vec::new(),
    }
}

/// Space left on the disk that holds `folder`: of the mount points above it, the deepest.
pub(crate) fn disk_free(folder: &Path) -> Option<u64> {
    let disks = Disks::new_with_refreshed_list().ok()?;
    let above = disks.iter().filter(|disk| folder.starts_with(disk.mount_point()));
    above.max_by_key(|disk| disk.mount_point().components().count()).map(sysinfo::Disk::available_space)
}

fn advice(findings: &Findings) -> Vec<String> {
    let mut advice = Vec::new();
    if !findings.release_build {
        advice.push("this is a debug build, many times slower: build with `cargo build --release`".to_owned());
    }
    if findings.instructions == ["portable"] {
        advice.push("no vector instructions that the kernels know: expect training to be slow on this CPU".to_owned());
    }
    if let Some(Gpu { count: 2.., nccl: None, .. }) = &findings.gpu {
        advice.push("several GPUs are here, and cannot train together: the line `gpus` says why".to_owned());
    }
    if findings.nvidia_driver && findings.gpu.is_none() {
        advice.push("an NVIDIA driver is here: `ijepa doctor --device cuda` tries it, and `pretrain --device cuda` trains on it".to_owned());
    }
    if let Some(free) = findings.memory_available_bytes.filter(|free| *free < 2_000_000_000) {
        advice.push(format!(
            "{} of memory are free: choose a small encoder (meta.model_name: vit_tiny) and a small data.batch_size, or end other programs",
            bytes(free)
        ));
    }
    if let Some(free) = findings.disk_free_bytes.filter(|free| *free < 2_000_000_000) {
        advice.push(format!(
            "{} are left on the disk of {}: put the run folder elsewhere with --out",
            bytes(free),
            findings.folder
        ));
    }
    advice
}

fn table(findings: &Findings) -> String {
    let yes = |terminal: bool| if terminal { "a terminal" } else { "not a terminal" };
    let instructions = findings.instructions.join(" ");
    let known = |count: Option<u64>| count.map_or("unknown".to_owned(), bytes);
    let mut lines = vec![
        format!("ijepa     {} ({} build)", findings.version, if findings.release_build { "release" } else { "debug" }),
        format!("system    {}", findings.system),
        format!("cpu       {}, {} cores for this process, {} threads", findings.cpu, findings.cores, findings.threads),
        format!("vectors   {instructions}"),
        format!("memory    {} free of {}", known(findings.memory_available_bytes), known(findings.memory_bytes)),
        format!("disk      {} free in {}", known(findings.disk_free_bytes), findings.folder),
        format!(
            "models    {} in {} and {}; {}",
            findings.models.bytes.map_or("many files".to_owned(), bytes),
            findings.models.hub,
            findings.models.torch,
            if findings.models.offline { "HF_HUB_OFFLINE forbids the network" } else { "HF_HUB_OFFLINE is not set" }
        ),
        format!("output    stdout is {}, stderr is {}", yes(findings.stdout_terminal), yes(findings.stderr_terminal)),
        "device    the CPU, unless --device says otherwise".to_owned(),
        match findings.ranks {
            Some(_) => "ranks     over MPI (docs/ranks.md)".to_owned(),
            None => "ranks     one process; MPI is not built in (cargo build --release --features mpi)".to_owned(),
        },
        String::new(),
    ];
    if let Some(gpu) = &findings.gpu {
        lines.splice(lines.len() - 1.., gpu.lines().into_iter().chain([String::new()]));
    }
    if findings.advice.is_empty() {
        lines.push("all is well: try `ijepa --help`".to_owned());
    }
    lines.extend(findings.advice.iter().map(|advice| format!("to do: {advice}")));
    lines.join("\n")
}
