//! Whose names do the tensors of a file have, and which of our names are they?
//!
//! Checkpoints of ours and of the reference name their networks. A file with one encoder has the reference's names without a network
//! in front (timm, plain state dictionaries) or Hugging Face's, where query, key and value are three tensors and blocks are
//! `encoder.layer.N` (as published) or `layers.N` (as `transformers` 5 calls them).

use std::collections::BTreeMap;

use super::index::{Entry, Index};
use super::{CheckpointError, Network, Source};

/// A tensor under our name: entries that lie one after the other along its first axis.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) shape: Vec<usize>,
    /// Numbers of entries.
    pub(super) entries: Vec<usize>,
}

/// Tensors by our names. Of a file with one encoder under bare names, they begin with the prefix of the network that it says it is, else with
/// `encoder.`; what does not belong to an encoder is left out and noted.
pub(super) fn translate(index: &mut Index) -> Result<BTreeMap<String, Located>, CheckpointError> {
    let is_of_encoder = |entry: &Entry| part(&entry.name).is_some_and(|(name, _)| name == "patch_embed.proj.weight");
    if index.meta.source != Source::Other || !index.entries.iter().any(is_of_encoder) {
        let located = index.entries.iter().enumerate().map(|(number, entry)| {
            let located = Located { shape: entry.shape.clone(), entries: vec![number] };
            (entry.name.clone(), located)
        });
        return Ok(located.collect());
    }
    index.meta.lone = true;
    let prefix = index.meta.network.unwrap_or(Network::Context).prefix();
    let mut parts: BTreeMap<String, [Option<usize>; 3]> = BTreeMap::new();
    let mut left_out = Vec::new();
    for (number, entry) in index.entries.iter().enumerate() {
        let bad =
            |expected: &str, got: String| index.containers[entry.container].malformed("tensor names", expected, got);
        match part(&entry.name) {
            Some((name, part)) => {
                let slot = &mut parts.entry(format!("{prefix}{name}")).or_default()[part];
                if let Some(first) = slot.replace(number) {
                    let got = format!("{} and {}", index.entries[first].name, entry.name);
                    return Err(bad("one tensor for each part of an encoder", got));
                }
            }
            None if is_head(&entry.name) => left_out.push(entry.name.as_str()),
            // A class token, registers or scales of layers: computing without them would give other features.
            None => {
                return Err(bad("an encoder of I-JEPA's kind, and at most a classifier beside it", entry.name.clone()));
            }
        }
    }
    if !left_out.is_empty() {
        const SHOWN: usize = 5;
        let more = left_out.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = left_out[..left_out.len().min(SHOWN)].join(", ");
        index.notes.push(format!("not read, since no part of the encoder: {shown}{more}"));
    }
    parts.into_iter().map(|(name, parts)| Ok((name.clone(), join(index, &name, parts)?))).collect()
}

/// One tensor, or query, key and value of equal shape.
fn join(index: &Index, name: &str, parts: [Option<usize>; 3]) -> Result<Located, CheckpointError> {
    let entry = |number: usize| &index.entries[number];
    let (first, entries) = match parts {
        [Some(first), None, None] if !is_query(&entry(first).name) => (first, vec![first]),
        [Some(q), Some(k), Some(v)]
            if is_query(&entry(q).name) && [k, v].iter().all(|&part| entry(part).shape == entry(q).shape) =>
        {
            (q, vec![q, k, v])
        }
        _ => {
            let got: Vec<String> =
                parts.into_iter().flatten().map(|n| format!("{} {:?}", entry(n).name, entry(n).shape)).collect();
            let expected = "query, key and value of equal shape";
            return Err(index.containers[0].malformed(name, expected, got.join(", ")));
        }
    };
    let mut shape = entry(first).shape.clone();
    if entries.len() > 1 {
        // Of a tensor without elements an extent may be any number.
        let rows = shape.first().and_then(|rows| rows.checked_mul(entries.len()));
        let elements = rows.and_then(|rows| shape[1..].iter().try_fold(rows, |n, extent| n.checked_mul(*extent)));
        let (Some(rows), Some(_)) = (rows, elements) else {
            let expected = "query, key and value with rows, three times which fit 64 bits";
            return Err(index.containers[0].malformed(name, expected, format!("shape {shape:?}")));
        };
        shape[0] = rows;
    }
    Ok(Located { shape, entries })
}

/// What stands behind an encoder and changes none of its tokens: classifiers, poolers, the token for masked images.
fn is_head(name: &str) -> bool {
    let name = name.strip_prefix("ijepa.").unwrap_or(name);
    ["head.", "classifier.", "pooler."].iter().any(|prefix| name.starts_with(prefix)) || name == "embeddings.mask_token"
}

fn is_query(name: &str) -> bool {
    part(name).is_some_and(|(ours, _)| ours.contains(".attn.qkv.")) && !name.contains(".qkv.")
}

/// Our name of an encoder's tensor, and which part of it a foreign name means; none for other tensors.
fn part(name: &str) -> Option<(String, usize)> {
    let name = name.strip_prefix("ijepa.").unwrap_or(name);
    for (theirs, ours) in [
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
        ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
        ("layernorm.weight", "norm.weight"),
        ("layernorm.bias", "norm.bias"),
    ] {
        if name == theirs || name == ours {
            return Some((ours.to_string(), 0));
        }
    }
    let (number, rest) = ["blocks.", "encoder.layer.", "layers."]
        .into_iter()
        .find_map(|prefix| name.strip_prefix(prefix)?.split_once('.'))?;
    let number: usize = number.parse().ok()?;
    let (rest, last) = rest.rsplit_once('.').filter(|(_, last)| matches!(*last, "weight" | "bias"))?;
    let (ours, part) = match rest {
        "norm1" | "layernorm_before" => ("norm1", 0),
        "norm2" | "layernorm_after" => ("norm2", 0),
        "attn.qkv" | "attention.attention.query" | "attention.q_proj" => ("attn.qkv", 0),
        "attention.attention.key" | "attention.k_proj" => ("attn.qkv", 1),
        "attention.attention.value" | "attention.v_proj" => ("attn.qkv", 2),
        "attn.proj" | "attention.output.dense" | "attention.o_proj" => ("attn.proj", 0),
        "mlp.fc1" | "intermediate.dense" => ("mlp.fc1", 0),
        "mlp.fc2" | "output.dense" => ("mlp.fc2", 0),
        _ => return None,
    };
    Some((format!("blocks.{number}.{ours}.{last}"), part))
}

/// Hugging Face's published names of an encoder's tensor of ours: one, or query, key and value.
pub fn hugging_face(name: &str) -> Option<Vec<String>> {
    let fixed = match name {
        "pos_embed" => Some("embeddings.position_embeddings"),
        "patch_embed.proj.weight" => Some("embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias" => Some("embeddings.patch_embeddings.projection.bias"),
        "norm.weight" => Some("layernorm.weight"),
        "norm.bias" => Some("layernorm.bias"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return Some(vec![fixed.to_string()]);
    }
    let (number, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (rest, last) = rest.rsplit_once('.')?;
    let theirs: &[&str] = match rest {
        "norm1" => &["layernorm_before"],
        "norm2" => &["layernorm_after"],
        "attn.qkv" => &["attention.attention.query", "attention.attention.key", "attention.attention.value"],
        "attn.proj" => &["attention.output.dense"],
        "mlp.fc1" => &["intermediate.dense"],
        "mlp.fc2" => &["output.dense"],
        _ => return None,
    };
    Some(theirs.iter().map(|theirs| format!("encoder.layer.{number}.{theirs}.{last}")).collect())
}
