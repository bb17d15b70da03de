//! What does a checkpoint hold? Names, types and shapes, without reading a value.

use std::collections::BTreeMap;

use anyhow::Result;
use ijepa_model::checkpoint::{self, Network, Source, Summary};

use crate::cli::InspectArgs;
use crate::exit::Exit;
use crate::hub;
use crate::output;

/// The JSON of `inspect`.
#[derive(serde::Serialize)]
struct Shown<'s> {
    file: String,
    format: &'s str,
    bytes: u64,
    source: &'s str,
    version: Option<&'s str>,
    method: Option<&'s str>,
    step: Option<u64>,
    epoch: Option<u64>,
    seed: Option<u64>,
    optimizer_step: Option<u64>,
    holds: String,
    network: Option<&'s str>,
    heads: Option<usize>,
    image: Option<(usize, usize)>,
    parts: Vec<Part<'s>>,
    tensors: Vec<Tensor<'s>>,
    other: &'s BTreeMap<String, String>,
    notes: &'s [String],
    config: Option<&'s str>,
}

#[derive(serde::Serialize)]
struct Part<'s> {
    name: &'s str,
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

#[derive(serde::Serialize)]
struct Tensor<'s> {
    name: &'s str,
    dtype: String,
    shape: &'s [usize],
}

/// Runs `inspect`.
pub(crate) fn run(args: &InspectArgs) -> Result<Exit> {
    let summary = checkpoint::list(&hub::locate(&args.file)?)?;
    if args.json {
        output::json(&shown(args, &summary))?;
    } else {
        output::result(&table(args, &summary))?;
    }
    Ok(Exit::Done)
}

fn shown<'s>(args: &InspectArgs, summary: &'s Summary) -> Shown<'s> {
    let meta = &summary.meta;
    let part = |part: &checkpoint::Part| Part {
        name: part.name,
        tensors: part.tensors,
        parameters: part.parameters,
        bytes: part.bytes,
    };
    Shown {
        file: args.file.display().to_string(),
        format: summary.format,
        bytes: summary.file_bytes,
        source: source(summary),
        version: meta.version.as_deref(),
        method: meta.method.as_deref(),
        step: meta.step,
        epoch: meta.epoch,
        seed: meta.seed,
        optimizer_step: summary.optimizer_step,
        holds: holds(summary),
        network: network(summary),
        heads: meta.heads,
        image: meta.image,
        parts: summary.parts.iter().map(part).collect(),
        tensors: sorted(summary)
            .into_iter()
            .map(|tensor| Tensor { name: &tensor.name, dtype: tensor.dtype.to_string(), shape: &tensor.shape })
            .collect(),
        other: &meta.other,
        notes: &summary.notes,
        config: meta.config.as_deref(),
    }
}

fn table(args: &InspectArgs, summary: &Summary) -> String {
    let meta = &summary.meta;
    let mut lines = vec![format!("{}  {}, {}", args.file.display(), summary.format, bytes(summary.file_bytes))];
    let mut facts = vec![format!("written by {}", source(summary))];
    facts.extend(meta.version.as_ref().map(|version| format!("version {version}")));
    facts.extend(meta.method.as_ref().map(|method| format!("method {method}")));
    facts.extend(meta.step.map(|step| format!("step {step}")));
    facts.extend(meta.epoch.map(|epoch| format!("epoch {epoch}")));
    facts.extend(meta.seed.map(|seed| format!("seed {seed}")));
    facts.extend(meta.heads.map(|heads| format!("{heads} heads")));
    facts.extend(meta.image.map(|(height, width)| format!("images of {height}×{width}")));
    facts.extend(summary.optimizer_step.map(|step| format!("optimiser after {step} steps")));
    facts.extend(meta.other.iter().map(|(key, value)| format!("{key} {value}")));
    lines.push(facts.join(", "));
    lines.push(format!("holds {}", holds(summary)));
    lines.extend(summary.notes.iter().map(|note| format!("note: {note}")));

    lines.push(format!("\n{:<16} {:>8} {:>14} {:>10}", "part", "tensors", "numbers", "size"));
    for part in &summary.parts {
        lines.push(format!("{:<16} {:>8} {:>14} {:>10}", part.name, part.tensors, part.parameters, bytes(part.bytes)));
    }
    let width = summary.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    lines.push(String::new());
    for tensor in sorted(summary) {
        let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        lines.push(format!("{:<width$}  {:<4}  ({shape})", tensor.name, tensor.dtype.to_string()));
    }
    if let (Some(config), true) = (&meta.config, output::wants(1)) {
        lines.push(format!("\nconfiguration:\n{}", config.trim_end()));
    }
    lines.join("\n")
}

/// Which encoder it is, where there is but one.
fn network(summary: &Summary) -> Option<&'static str> {
    let has = |name: &str| summary.parts.iter().any(|part| part.name == name);
    let named = match (has("encoder"), has("target_encoder")) {
        (true, false) if !summary.meta.lone => Some(Network::Context),
        (false, true) => Some(Network::Target),
        _ => None,
    };
    summary.meta.network.or(named).map(Network::name)
}

/// Which networks there are, in words.
fn holds(summary: &Summary) -> String {
    let meta = &summary.meta;
    if meta.lone {
        return match meta.network {
            Some(network) => format!("the {} encoder", network.name()),
            None => {
                "one encoder, without saying which; those that Hugging Face and timm publish are the context encoder"
                    .to_owned()
            }
        };
    }
    let names = [
        ("encoder", "the context encoder"),
        ("predictor", "the predictor"),
        ("target_encoder", "the target encoder (whose features the paper evaluates)"),
        ("optimizer", "the optimiser's state"),
    ];
    let held = names.iter().filter(|(part, _)| summary.parts.iter().any(|held| held.name == *part));
    let held: Vec<&str> = held.map(|(_, words)| *words).collect();
    if held.is_empty() { "no network that is known here".to_owned() } else { held.join(", ") }
}

fn source(summary: &Summary) -> &'static str {
    match summary.meta.source {
        Source::Ours => "ijepa",
        Source::Reference => "the reference",
        Source::Other => "another program",
    }
}

/// By name, with numbers in names as numbers: block 2 before block 10.
fn sorted(summary: &Summary) -> Vec<&checkpoint::Listed> {
    let mut tensors: Vec<_> = summary.tensors.iter().collect();
    let key = |name: &str| name.split('.').map(|part| (part.parse::<u32>().ok(), part.to_owned())).collect::<Vec<_>>();
    tensors.sort_by_cached_key(|tensor| key(&tensor.name));
    tensors
}

/// `1.2 GB`, `34 kB`, decimal units.
pub(crate) fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        _ if count >= 1e9 => format!("{:.1} GB", count / 1e9),
        _ if count >= 1e6 => format!("{:.1} MB", count / 1e6),
        _ if count >= 1e3 => format!("{:.0} kB", count / 1e3),
        _ => format!("{count} B"),
    }
}
