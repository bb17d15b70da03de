//! What does the dictionary in a PyTorch checkpoint mean?
//!
//! The reference implementation saves `encoder`, `predictor` and `target_encoder` (dictionaries of tensors, every name prefixed
//! `module.`), `opt` (AdamW), `scaler`, `epoch`, `loss`, `batch_size`, `world_size` and `lr`. Its optimiser numbers parameters through
//! four groups in this order: encoder with weight decay, predictor with, encoder without, predictor without; within a group in
//! the order of the network. Without decay are those with `bias` in their name or one axis.
//!
//! A dictionary without networks whose values are tensors is a plain state dictionary.

use std::collections::HashMap;

use super::index::{Entry, Index};
use super::pickle::{Id, Pickle, Value};
use super::safetensors::{HEADS, IMAGE, check_names, image_size, without_prefix};
use super::torch::Records;
use super::{CheckpointError, EXP_AVG, EXP_AVG_SQ, Meta, NETWORKS, Source};

/// The key under which files of ours carry the configuration.
pub const CONFIG: &str = "ijepa.config";

/// AdamW keeps three things for a parameter, four with amsgrad.
const STATE_MAX: usize = 16;

/// Turns the pickle into a list of tensors and metadata; `format` is the container, in words.
pub(super) fn interpret(pickle: &Pickle, mut records: Records, format: &'static str) -> Result<Index, CheckpointError> {
    let root = pickle.root();
    let Value::Dict(_) = root else {
        let got = root.describe();
        return Err(records.container.malformed("data.pkl", "a dictionary", got));
    };
    let networks: Vec<&str> =
        NETWORKS.into_iter().filter(|name| matches!(pickle.lookup(root, name), Some(Value::Dict(_)))).collect();
    let mut index = Part::default();
    if networks.is_empty() {
        index.meta.source = Source::Other;
        plain(pickle, &mut records, &mut index)?;
    } else {
        index.meta.source = Source::Reference;
        for network in networks {
            let dict = pickle.lookup(root, network).expect("it was just found");
            for (name, tensor) in named(pickle, dict) {
                let full = format!("{network}.{}", without_prefix(&name));
                let Value::Tensor(tensor) = tensor else {
                    let place = format!("data.pkl, {full}");
                    return Err(records.container.malformed(place, "a tensor", tensor.describe()));
                };
                index.entries.push(records.resolve(&full, tensor)?);
            }
        }
        for (key, value) in named(pickle, root) {
            extra(pickle, &records, &mut index, &key, value)?;
        }
    }
    check_names(&records.container, &index.entries)?;

    let mut optimizer_problem = None;
    let mut optimizer_step = None;
    if index.meta.source == Source::Reference
        && let Some(state) = pickle.lookup(root, "opt")
    {
        // What the reference's next step sets anew, and other readers may want.
        let groups = pickle.lookup(state, "param_groups");
        if let Some(Value::List(groups)) = groups
            && let Some(decay) = groups.first().and_then(|group| pickle.lookup(pickle.get(*group), "weight_decay"))
            && let Some(text) = scalar(decay)
        {
            index.meta.other.insert("weight_decay".to_string(), text);
        }
        match moments(pickle, &mut records, &index.entries, state) {
            Ok(Some((entries, step))) => {
                index.entries.extend(entries);
                optimizer_step = Some(step);
            }
            Ok(None) => {}
            Err(problem) => optimizer_problem = Some(problem),
        }
    }
    let container = records.container;
    Ok(Index {
        format,
        entries: index.entries,
        optimizer_step,
        optimizer_problem,
        meta: Meta { path: Some(container.path.clone()), ..index.meta },
        notes: index.notes,
        containers: vec![container],
    })
}

#[derive(Default)]
struct Part {
    entries: Vec<Entry>,
    meta: Meta,
    notes: Vec<String>,
}

/// A state dictionary: tensors under their names, perhaps numbers beside them. Some trainers put it under a key of its own.
fn plain(pickle: &Pickle, records: &mut Records, index: &mut Part) -> Result<(), CheckpointError> {
    let root = pickle.root();
    let inner =
        ["state_dict", "model"].into_iter().find(|key| matches!(pickle.lookup(root, key), Some(Value::Dict(_))));
    let beside = named(pickle, root).into_iter().filter(|(key, _)| Some(key.as_str()) != inner);
    let within = inner.and_then(|key| pickle.lookup(root, key)).map_or_else(Vec::new, |inner| named(pickle, inner));
    for (name, value) in within.into_iter().chain(beside) {
        if let Value::Tensor(tensor) = value {
            let name = without_prefix(&name).to_string();
            index.entries.push(records.resolve(&name, tensor)?);
        } else if let Some(text) = scalar(value) {
            index.meta.other.insert(name, text);
        } else {
            index.notes.push(format!("`{name}` is not read: {}", value.describe()));
        }
    }
    if index.entries.is_empty() {
        let root = pickle.root();
        let keys: Vec<String> = named(pickle, root).into_iter().take(8).map(|(key, _)| key).collect();
        return Err(records.container.malformed(
            "data.pkl",
            "a dictionary with encoder, predictor or target_encoder, or one of tensors",
            format!("{} with the keys [{}]", root.describe(), keys.join(", ")),
        ));
    }
    Ok(())
}

/// One of the entries of the reference's dictionary that are not tensors.
fn extra(
    pickle: &Pickle,
    records: &Records,
    index: &mut Part,
    key: &str,
    value: &Value,
) -> Result<(), CheckpointError> {
    match (key, value) {
        ("opt", _) => {}
        (HEADS, Value::Int(heads)) if *heads > 0 => index.meta.heads = usize::try_from(*heads).ok(),
        (IMAGE, Value::Text(size)) if image_size(size).is_some() => index.meta.image = image_size(size),
        (CONFIG, Value::Text(config)) => index.meta.config = Some(config.to_string()),
        ("epoch", Value::Int(epoch)) if *epoch >= 0 => index.meta.epoch = Some(*epoch as u64),
        ("epoch", other) => {
            let expected = "the number of completed epochs";
            return Err(records.container.malformed("data.pkl, epoch", expected, other.describe()));
        }
        ("scaler", scaler @ Value::Dict(_)) => {
            for (name, value) in named(pickle, scaler) {
                if let Some(text) = scalar(value) {
                    index.meta.other.insert(format!("scaler.{name}"), text);
                }
            }
        }
        (key, _) if NETWORKS.contains(&key) && matches!(value, Value::Dict(_)) => {}
        (_, Value::None) => {}
        (key, value) => match scalar(value) {
            Some(text) => {
                index.meta.other.insert(key.to_string(), text);
            }
            None => index.notes.push(format!("`{key}` is not read: {}", value.describe())),
        },
    }
    Ok(())
}

/// AdamW's moments under the names of their parameters, and the step; none when the optimiser has not stepped yet.
fn moments(
    pickle: &Pickle,
    records: &mut Records,
    parameters: &[Entry],
    optimizer: &Value,
) -> Result<Option<(Vec<Entry>, u64)>, CheckpointError> {
    let state = match pickle.lookup(optimizer, "state") {
        Some(Value::Dict(state)) => state,
        _ => {
            let got = optimizer.describe();
            return Err(records.container.malformed("data.pkl, opt", "AdamW's state", got));
        }
    };
    if state.is_empty() {
        return Ok(None);
    }
    let owners = owners(pickle, records, parameters, optimizer)?;
    let states = states(pickle, records, &owners, state)?;
    let mut entries = Vec::with_capacity(2 * owners.len());
    let mut step: Option<(u64, &str)> = None;
    for (number, parameter) in owners {
        let name = parameter.name.as_str();
        let place = format!("data.pkl, opt, state of {name} (number {number})");
        let Some(state) = states[&number] else {
            // Fixed position tables sit in the groups but never get a gradient.
            if name.ends_with("pos_embed") {
                continue;
            }
            return Err(records.container.malformed(place, "exp_avg, exp_avg_sq and step", "none"));
        };
        for (key, prefix) in [("exp_avg", EXP_AVG), ("exp_avg_sq", EXP_AVG_SQ)] {
            let Some(Value::Tensor(tensor)) = pickle.lookup(state, key) else {
                return Err(records.container.malformed(place, format!("a tensor {key}"), "none"));
            };
            let entry = records.resolve(&format!("{prefix}{name}"), tensor)?;
            if entry.shape != parameter.shape {
                let expected = format!("{key} of the parameter's shape {:?}", parameter.shape);
                return Err(records.container.malformed(place, expected, format!("{:?}", entry.shape)));
            }
            entries.push(entry);
        }
        let this = optimizer_step(pickle, records, state, &place)?;
        match step {
            None => step = Some((this, name)),
            Some((first, _)) if first == this => {}
            Some((first, other)) => {
                let expected = format!("the step {first} of {other}");
                return Err(records.container.malformed(place, expected, this.to_string()));
            }
        }
    }
    Ok(step.map(|(step, _)| (entries, step)))
}

/// The optimiser's dictionary for each parameter's number; none for those that it has not touched.
fn states<'a>(
    pickle: &'a Pickle,
    records: &Records,
    owners: &[(i64, &Entry)],
    pairs: &[(Id, Id)],
) -> Result<HashMap<i64, Option<&'a Value>>, CheckpointError> {
    let mut states: HashMap<i64, Option<&Value>> = owners.iter().map(|(number, _)| (*number, None)).collect();
    for (key, value) in pairs {
        let slot = match pickle.get(*key) {
            Value::Int(number) => states.get_mut(number),
            _ => None,
        };
        let (Some(slot), Value::Dict(state)) = (slot, pickle.get(*value)) else {
            let expected = "a dictionary for each number in param_groups";
            let got = format!("{} for {}", pickle.get(*value).describe(), pickle.get(*key).describe());
            return Err(records.container.malformed("data.pkl, opt, state", expected, got));
        };
        if state.len() > STATE_MAX {
            let expected = format!("at most {STATE_MAX} entries for a parameter");
            return Err(records.container.malformed("data.pkl, opt, state", expected, state.len().to_string()));
        }
        *slot = Some(pickle.get(*value));
    }
    Ok(states)
}

/// The parameters with their numbers in the optimiser's state.
fn owners<'a>(
    pickle: &Pickle,
    records: &Records,
    parameters: &'a [Entry],
    optimizer: &Value,
) -> Result<Vec<(i64, &'a Entry)>, CheckpointError> {
    let bad = |expected: String, got: String| records.container.malformed("data.pkl, opt, param_groups", expected, got);
    let groups = match pickle.lookup(optimizer, "param_groups") {
        Some(Value::List(groups)) if groups.len() == 4 => groups,
        other => {
            let got = other.map_or("none".to_string(), Value::describe);
            return Err(bad("a list of 4 groups".to_string(), got));
        }
    };
    let order = [("encoder.", true), ("predictor.", true), ("encoder.", false), ("predictor.", false)];
    let mut owners = Vec::with_capacity(parameters.len());
    for (group, (network, decays)) in groups.iter().zip(order) {
        let members = parameters.iter().filter(|entry| {
            let without = entry.name.contains("bias") || entry.shape.len() == 1;
            entry.name.starts_with(network) && without != decays
        });
        let members: Vec<&Entry> = members.collect();
        let numbers: Vec<i64> = match pickle.lookup(pickle.get(*group), "params") {
            Some(Value::List(ids)) => ids
                .iter()
                .filter_map(|id| match pickle.get(*id) {
                    Value::Int(number) => Some(*number),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        if numbers.len() != members.len() {
            let decay = if decays { "with" } else { "without" };
            let expected = format!("{} parameters of {network}* {decay} weight decay in one group", members.len());
            return Err(bad(expected, numbers.len().to_string()));
        }
        owners.extend(numbers.into_iter().zip(members));
    }
    let mut numbers: Vec<i64> = owners.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(bad("each parameter's number once".to_string(), format!("{} twice", pair[0])));
    }
    Ok(owners)
}

/// `step` is a tensor of one element today and was a plain number before.
fn optimizer_step(pickle: &Pickle, records: &mut Records, state: &Value, place: &str) -> Result<u64, CheckpointError> {
    let step = match pickle.lookup(state, "step") {
        Some(Value::Int(step)) => *step as f64,
        Some(Value::Float(step)) => *step,
        Some(Value::Tensor(tensor)) => {
            let entry = records.resolve("step of the optimiser", tensor)?;
            match entry.elements() {
                1 => {
                    let mut step = [0.0];
                    records.container.read_into(&entry, &mut step)?;
                    f64::from(step[0])
                }
                _ => f64::NAN,
            }
        }
        _ => f64::NAN,
    };
    if step >= 0.0 && step.fract() == 0.0 && step < 2f64.powi(53) {
        return Ok(step as u64);
    }
    let got = pickle.lookup(state, "step").map_or("none".to_string(), Value::describe);
    Err(records.container.malformed(place, "a step that is one natural number", got))
}

/// The pairs of a dictionary whose keys are texts, in order; of equal keys the last.
fn named<'a>(pickle: &'a Pickle, dict: &'a Value) -> Vec<(String, &'a Value)> {
    let Value::Dict(pairs) = dict else {
        return Vec::new();
    };
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut named: Vec<(String, &Value)> = Vec::new();
    for (key, value) in pairs {
        let Value::Text(key) = pickle.get(*key) else {
            continue;
        };
        match places.get(&**key) {
            Some(&place) => named[place].1 = pickle.get(*value),
            None => {
                places.insert(key, named.len());
                named.push((key.to_string(), pickle.get(*value)));
            }
        }
    }
    named
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Text(text) => Some(text.to_string()),
        _ => None,
    }
}
