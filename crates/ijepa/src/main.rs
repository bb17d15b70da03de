//! ijepa: pretrain, evaluate and look inside image encoders learnt by I-JEPA.
//!
//! Reading order: [`cli`] (what can be asked) → [`config`] (run files) → [`run`] (what will be done) → the command's own module →
//! [`log`] (what is left behind) → [`exit`] (how it ends).

mod batches;
mod bench;
mod cli;
mod config;
mod config_command;
mod convert;
mod data;
mod demo;
mod device;
mod distributed;
mod doctor;
mod embed;
mod eval;
mod exit;
mod extract;
mod feed;
mod hub;
mod inspect;
mod labelled;
mod log;
mod opening;
mod output;
mod pictures;
mod plan;
mod precision;
mod pretrain;
mod report;
mod run;
mod stop;
mod store;
mod train;
mod tune;
mod view;
mod waits;
mod watch;

use std::process::ExitCode;

/// Keeps what was freed: the system's allocator gives pictures back, and a quarter of decoding is spent on getting them again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Command, ViewCommand};
#[cfg(unix)]
use distributed::spawn;
use exit::{Exit, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::set_verbosity(if cli.quiet { -1 } else { cli.verbose.min(9) as i8 });
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn start(cli: Cli) -> Result<Exit> {
    ijepa_tensor::instruction_set().map_err(Failure::usage)?;
    // On this thread, which lives as long as the process: ranks that it starts end with it.
    #[cfg(unix)]
    if let Command::Pretrain(args) = &cli.command
        && let Some(gpus) = &args.gpus
    {
        if !spawn::is_rank() {
            let gpus = spawn::gpus(gpus)?;
            spawn::check(&gpus)?;
            return spawn::run(&gpus);
        }
        spawn::end_with_launcher()?;
    }
    #[cfg(not(unix))]
    if matches!(&cli.command, Command::Pretrain(args) if args.gpus.is_some()) {
        return Err(Failure::usage("--gpus: not on this system; start one process for each GPU with torchrun").into());
    }
    ijepa_tensor::threads::start(cli.threads.or_else(distributed::threads)).map_err(Failure::usage)?;
    ijepa_tensor::threads::run(|| run_command(cli))
}

fn run_command(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Demo(args) => distributed::run_alone("demo", |world| demo::run(&args, world)),
        Command::Pretrain(args) => distributed::run(device::Place::asked(&args)?, |world| pretrain::run(&args, world)),
        Command::Eval(command) => device::guarded(|| eval::run(&command)),
        Command::Embed(args) => device::guarded(|| embed::run(&args)),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Data(command) => data::run(&command),
        Command::Config(command) => config_command::run(&command),
        Command::View(ViewCommand::Masks(args)) => view::masks::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::Plan(args) => plan::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
