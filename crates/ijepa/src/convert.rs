//! `ijepa convert`: a checkpoint in another program's format.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ijepa_model::checkpoint::{Meta, Network, Reader, Source};
use ijepa_model::saved::predictor_sizes;
use ijepa_model::{Jepa, State, export, onnx};
use serde_json::json;

use crate::cli::{ConvertArgs, EncoderArgs, Format, Pool};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::extract::{self, Encoder};
use crate::hub;
use crate::inspect::bytes;
use crate::output;

/// Runs `convert`.
pub(crate) fn run(args: &ConvertArgs) -> Result<Exit> {
    let format = format(args)?;
    let args = &ConvertArgs { input: hub::locate(&args.input)?, ..args.clone() };
    refuse_same_place(args)?;
    if args.predictor && format != Format::Onnx {
        return Err(Failure::usage(
            "--predictor: expected the format onnx; other formats hold encoders, or a whole run",
        )
        .remedy("--to onnx, or leave --predictor out")
        .into());
    }
    let whole = matches!(format, Format::Safetensors | Format::Pth)
        && args.network.is_none()
        && args.image_size.is_none()
        && predictor_sizes(&Reader::open(&args.input)?).is_some();
    let written = if whole {
        let (model, state, meta) = training(args)?;
        match format {
            Format::Pth => reference(&args.out, &model, &state, &meta)?,
            _ => model.save(&args.out, &state, &meta)?,
        }
        "three networks and the optimiser's state".to_owned()
    } else if args.predictor {
        let (model, state, _) = training(args)?;
        onnx::write_predictor(&args.out, &model, &state.params)?;
        "the predictor".to_owned()
    } else {
        let (encoder, network) = encoder(args)?;
        write_encoder(&args.out, format, &encoder, network)?;
        format!("the {} encoder", network.name())
    };
    let size = size(&args.out);
    if args.json {
        let out = args.out.display().to_string();
        output::json(&json!({"out": out, "format": format_name(format), "holds": written, "bytes": size}))?;
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

/// Reading goes on while writing: the one must not be the other.
fn refuse_same_place(args: &ConvertArgs) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    let (input, out) = (real(&args.input), real(&args.out));
    if input.is_some() && input == out {
        return Err(Failure::usage(format!("{} would be written over itself", args.input.display()))
            .remedy("another name to write to")
            .into());
    }
    Ok(())
}

/// A whole training state and its model, sizes taken from its tensors.
fn training(args: &ConvertArgs) -> Result<(Jepa, State, Meta)> {
    let path = &args.input;
    let mut file = Reader::open(path)?;
    file.notes().iter().for_each(|note| output::note(&format!("{}: {note}", path.display())));
    let typed = args.config.as_deref().map(|file| config::load(Some(file), &[])).transpose()?.map(|(config, _)| config);
    let carried =
        file.meta().config.as_deref().map(|text| config::parse(text, &path.display().to_string())).transpose()?;
    let config = typed.or(carried.map(|(config, _)| config));
    let unfit = |problem: String| {
        Failure::new(Exit::Checkpoint, format!("{}: {problem}", path.display()))
            .remedy("see what the file holds: ijepa inspect FILE")
    };
    let encoder = extract::sizes(&file, Network::Context.prefix(), args.heads, config.as_ref()).map_err(unfit)?;
    let Some(predictor) = predictor_sizes(&file) else {
        return Err(
            unfit("expected a predictor (a tensor predictor.predictor_embed.weight), got none".to_owned()).into()
        );
    };
    let model = Jepa::new(encoder, predictor);
    let state = model.restore(&mut file, None)?;
    let held = file.meta();
    let meta = Meta {
        source: Source::Ours,
        step: Some(state.step),
        method: held.method.clone().or(Some("ijepa".to_owned())),
        config: config.map(|config| config.to_yaml()),
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
    let options = EncoderArgs {
        network: args.network,
        pool: Pool::Last,
        config: args.config.clone(),
        heads: args.heads,
        image_size: args.image_size,
        batch: 1,
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

fn write_encoder(out: &Path, format: Format, encoder: &Encoder, network: Network) -> Result<()> {
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
            onnx::write_encoder(out, encoder.vit.config, &encoder.layout, &encoder.params, about)?;
        }
    }
    Ok(())
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Safetensors => "safetensors",
        Format::Pth => "pth",
        Format::Hf => "hf",
        Format::Timm => "timm",
        Format::Onnx => "onnx",
    }
}

/// Bytes of a file, or of the files of a folder.
fn size(path: &Path) -> u64 {
    let len = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| len(entry.path())).sum(),
        Err(_) => len(path.to_path_buf()),
    }
}
