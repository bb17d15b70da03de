//! `ijepa convert`: a checkpoint in another program's format.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use ijepa_model::checkpoint::{Meta, Network, Reader, Source};
use ijepa_model::saved::predictor_sizes;
use ijepa_model::{Jepa, State, export, onnx};
use serde_json::json;

use crate::cli::{ConvertArgs, Format, NetworkArgs};
use crate::exit::{Exit, Failure};
use crate::extract::{self, Encoder};
use crate::hub;
use crate::inspect::bytes;
use crate::output;

/// Runs `convert`.
pub(crate) fn run(args: &ConvertArgs) -> Result<Exit> {
    let format = format(args)?;
    let args = &ConvertArgs { input: hub::locate(&args.input)?, ..args.clone() };
    refuse_same_place(args, format)?;
    if args.predictor && format != Format::Onnx {
        return Err(Failure::usage(
            "--predictor: expected the format onnx; other formats hold encoders, or a whole run",
        )
        .remedy("--to onnx, or leave --predictor out")
        .into());
    }
    let mut file = Reader::open(&args.input)?;
    file.notes().iter().for_each(|note| output::note(&format!("{}: {note}", args.input.display())));
    let whole = matches!(format, Format::Safetensors | Format::Pth) && args.network.is_none();
    if whole {
        refuse_half(args, &file)?;
    }
    let whole = whole && predictor_sizes(&file).is_some();
    let mut beside = None;
    let written = if whole {
        let (model, state, meta) = training(args, &mut file)?;
        match format {
            Format::Pth => reference(&args.out, &model, &state, &meta)?,
            _ => model.save(&args.out, &state, &meta)?,
        }
        if state.step > 0 { "three networks and the optimiser's state" } else { "three networks" }.to_owned()
    } else if args.predictor {
        let (model, from) = model(args, &file)?;
        let state = model.restore_weights(&mut file, Some(from))?;
        beside = onnx::write_predictor(&args.out, &model, &state.params)?;
        "the predictor".to_owned()
    } else {
        drop(file);
        let (encoder, network) = encoder(args)?;
        beside = write_encoder(&args.out, format, &encoder, network)?;
        format!("the {} encoder", network.name())
    };
    let size = size(&args.out) + beside.as_deref().map_or(0, size);
    if args.json {
        let (out, value) = (args.out.display().to_string(), format.to_possible_value());
        let name = value.as_ref().map_or("", PossibleValue::get_name);
        output::json(&json!({"out": out, "format": name, "holds": written, "bytes": size}))?;
    } else {
        output::result(&format!("{}: {written}, {}", args.out.display(), bytes(size)))?;
    }
    Ok(Exit::Done)
}

/// `--to`, or what the ending of the name says.
fn format(args: &ConvertArgs) -> Result<Format> {
    let name = args.out.to_string_lossy().to_lowercase();
    let named = || match () {
        () if name.ends_with(".safetensors") => Some(Format::Safetensors),
        () if name.ends_with(".pth.tar") || name.ends_with(".pth") || name.ends_with(".pt") => Some(Format::Pth),
        () if name.ends_with(".onnx") => Some(Format::Onnx),
        () => None,
    };
    args.to.or_else(named).ok_or_else(|| {
        Failure::usage(format!(
            "{}: expected a name that ends in .safetensors, .pth.tar, .pth or .onnx, or --to FORMAT",
            args.out.display()
        ))
        .remedy("--to hf for a folder, --to timm for timm's names")
        .into()
    })
}

/// Nothing that is read may be written over.
fn refuse_same_place(args: &ConvertArgs, format: Format) -> Result<()> {
    let of_folder = ["model.safetensors", "config.json", "preprocessor_config.json"];
    let written: Vec<PathBuf> = match format {
        Format::Hf => of_folder.iter().map(|name| args.out.join(name)).collect(),
        _ => vec![args.out.clone()],
    };
    let read: Vec<PathBuf> = match std::fs::read_dir(&args.input) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![args.input.clone()],
    };
    let real =
        |paths: &[PathBuf]| -> Vec<PathBuf> { paths.iter().filter_map(|path| path.canonicalize().ok()).collect() };
    let read = real(&read);
    if real(&written).iter().any(|path| read.contains(path)) {
        return Err(Failure::usage(format!("{} would be written over itself", args.input.display()))
            .remedy("another name to write to")
            .into());
    }
    Ok(())
}

/// What would be left out without a word.
fn refuse_half(args: &ConvertArgs, file: &Reader) -> Result<()> {
    let both = [Network::Target, Network::Context]
        .into_iter()
        .all(|network| file.shape(&format!("{}patch_embed.proj.weight", network.prefix())).is_some());
    let (input, predictor) = (args.input.display(), predictor_sizes(file).is_some());
    let problem = match () {
        () if args.image_size.is_some() && predictor => {
            format!("--image-size takes one encoder, and {input} holds a whole training state")
        }
        () if both && !predictor => format!("{input} holds two encoders and no predictor"),
        () => return Ok(()),
    };
    Err(Failure::usage(problem).remedy("say which encoder to write: --network target, or --network context").into())
}

/// The model of a training state, sizes taken from its tensors, and its grid of patches.
fn model(args: &ConvertArgs, file: &Reader) -> Result<(Jepa, (usize, usize))> {
    let prefix = Network::Context.prefix();
    let config = extract::configuration(file, args.config.as_deref(), prefix, &args.input)?;
    let encoder = extract::sizes(file, prefix, args.heads, &config, &args.input)?;
    let problem = match predictor_sizes(file) {
        None => "expected a predictor (a tensor predictor.predictor_embed.weight), got none".to_owned(),
        Some(predictor) => match predictor.validate(encoder.heads) {
            Ok(()) => return Ok((Jepa::new(encoder, predictor), encoder.grid())),
            Err(problem) => problem,
        },
    };
    Err(extract::unfit(&args.input, problem, "see what the file holds: ijepa inspect FILE"))
}

/// A whole training state and its model.
fn training(args: &ConvertArgs, file: &mut Reader) -> Result<(Jepa, State, Meta)> {
    let (model, _) = model(args, file)?;
    let state = model.restore(file)?;
    let config = extract::configuration(file, args.config.as_deref(), Network::Context.prefix(), &args.input)?;
    let (held, encoder) = (file.meta(), model.encoder.config);
    let meta = Meta {
        source: Source::Ours,
        step: held.step.or((state.step > 0).then_some(state.step)),
        method: held.method.clone().or(Some("ijepa".to_owned())),
        config: config.any().map(|config| config.to_yaml()),
        heads: Some(encoder.heads),
        image: Some(encoder.image),
        ..held.clone()
    };
    Ok((model, state, meta))
}

/// Writes the reference's file, and says when it will repeat steps.
fn reference(out: &Path, model: &Jepa, state: &State, meta: &Meta) -> Result<()> {
    let steps_per_epoch = meta.other.get("steps_per_epoch").and_then(|text| text.parse::<u64>().ok());
    if let Some(rest) = steps_per_epoch.and_then(|steps| state.step.checked_rem(steps)).filter(|rest| *rest > 0) {
        output::warning(&format!(
            "the state is {rest} steps into epoch {}, which the reference will begin anew: it knows whole epochs only",
            meta.epoch.unwrap_or(0) + 1
        ));
    }
    Ok(export::write_reference(out, model, state, meta)?)
}

/// One encoder, and which one it is: a file that does not say it must not be given a name by chance.
fn encoder(args: &ConvertArgs) -> Result<(Encoder, Network)> {
    let options = NetworkArgs {
        network: args.network,
        config: args.config.clone(),
        heads: args.heads,
        image_size: args.image_size,
    };
    let encoder = Encoder::load(&args.input, &options)?;
    let Some(network) = encoder.network else {
        return Err(Failure::usage(format!(
            "{} holds one encoder and does not say which, and the file to be written says it",
            args.input.display()
        ))
        .remedy("--network context (what Hugging Face and timm publish), or --network target")
        .into());
    };
    Ok((encoder, network))
}

/// Writes an encoder; returns the file beside it, if there is one.
fn write_encoder(out: &Path, format: Format, encoder: &Encoder, network: Network) -> Result<Option<PathBuf>> {
    let lone = export::Encoder { layout: &encoder.layout, vit: &encoder.vit, params: &encoder.params };
    let mean_std = (encoder.normalisation.mean, encoder.normalisation.std);
    let meta = &encoder.meta;
    match format {
        Format::Safetensors => export::write_encoder(out, lone, network, meta)?,
        Format::Pth => export::write_torch_encoder(out, lone, network, meta)?,
        Format::Hf => export::write_hugging_face(out, lone, network, meta, mean_std)?,
        Format::Timm => export::write_timm(out, lone, network, meta)?,
        Format::Onnx => {
            let about = onnx::About { network: Some(network.name()), normalisation: Some(encoder.normalisation) };
            return Ok(onnx::write_encoder(out, encoder.vit.config, &encoder.layout, &encoder.params, about)?);
        }
    }
    Ok(None)
}

/// Bytes of a file, or of the files of a folder.
fn size(path: &Path) -> u64 {
    let len = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| len(entry.path())).sum(),
        Err(_) => len(path.to_path_buf()),
    }
}
