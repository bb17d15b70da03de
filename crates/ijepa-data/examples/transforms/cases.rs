//! What do other programs make of a picture, and what do we? Reads cases as `peers/transforms/transforms.py` writes them.
//!
//! A case is the length of its head (u32, little-endian), the head as JSON, and `bytes` bytes of the expected result. The head names
//! the operation, its numbers, and the picture that it begins with: a file, or a pattern that is computed.

use std::io::Read;

use ijepa_data::decode::{Limits, decode};
use ijepa_data::transform::{CropBox, Mix, Mixup, Move, Op, resize};
use ijepa_data::{EvalTransform, Filter, Fit, Normalisation, Picture};
use serde_json::Value;

/// An operation and what it gave elsewhere.
pub(crate) struct Case {
    /// Operation, numbers and picture.
    pub(crate) head: Value,
    /// The bytes of the result.
    pub(crate) expected: Vec<u8>,
}

impl Case {
    /// The next case, or nothing at the end.
    pub(crate) fn read(from: &mut impl Read) -> std::io::Result<Option<Case>> {
        let mut length = [0; 4];
        if from.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut length[1..])?;
        let mut head = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut head)?;
        let head: Value = serde_json::from_slice(&head)?;
        let mut expected = vec![0; head["bytes"].as_u64().unwrap_or(0) as usize];
        from.read_exact(&mut expected)?;
        Ok(Some(Case { head, expected }))
    }

    /// The operation's name, by which cases are summed up.
    pub(crate) fn name(&self) -> &str {
        self.head["name"].as_str().unwrap_or_default()
    }

    /// The result here.
    pub(crate) fn ours(&self) -> Vec<u8> {
        let head = &self.head;
        match head["op"].as_str().unwrap_or_default() {
            "mixup" => mixed(head),
            "decode" => picture(head).rgb,
            "resize" => {
                let [left, top, width, height] = numbers(&head["box"]);
                let [wide, tall] = numbers(&head["size"]);
                resize(picture(head).crop(left, top, width, height), wide, tall, filter(head)).rgb
            }
            "eval" => {
                let [height, width] = numbers(&head["crop"]);
                let normalisation = Normalisation { mean: [0.0; 3], std: [1.0; 3] };
                let mut planes = vec![0.0; 3 * height * width];
                EvalTransform { crop: (height, width), filter: filter(head), fit: Fit::Cut, normalisation }
                    .apply(&mut planes, &picture(head));
                let byte = |k: usize| (planes[k % 3 * height * width + k / 3] * 255.0).round() as u8;
                (0..planes.len()).map(byte).collect()
            }
            name => {
                let mut picture = picture(head);
                op(name, head).apply(&mut picture);
                picture.rgb
            }
        }
    }
}

fn op(name: &str, head: &Value) -> Op {
    let value = head["value"].as_f64().unwrap_or(0.0);
    let moved = |by: Move| {
        let fill: [usize; 3] = numbers(&head["fill"]);
        Op::Move(by, filter(head), fill.map(|byte| byte as u8))
    };
    match name {
        "AutoContrast" => Op::AutoContrast,
        "Equalize" => Op::Equalise,
        "Invert" => Op::Invert,
        "Posterize" => Op::Posterise(value as u8),
        "Solarize" => Op::Solarise(value as u16),
        "SolarizeAdd" => Op::SolariseAdd(value as u8),
        "Brightness" => Op::Brightness(value),
        "Contrast" => Op::Contrast(value),
        "Color" => Op::Saturation(value),
        "Sharpness" => Op::Sharpness(value),
        "Hue" => Op::Hue(value),
        "Grey" => Op::Grey,
        "Blur" => Op::Blur(value),
        "Rotate" => moved(Move::Rotate(value)),
        "ShearX" => moved(Move::ShearX(value)),
        "ShearY" => moved(Move::ShearY(value)),
        "TranslateXRel" => moved(Move::TranslateX(value)),
        "TranslateYRel" => moved(Move::TranslateY(value)),
        _ => panic!("{name}: no such operation"),
    }
}

/// Images, then targets.
fn mixed(head: &Value) -> Vec<u8> {
    let [images, height, width, classes] = numbers(&head["shape"]);
    let mut batch: Vec<f32> = (0..images * 3 * height * width).map(|k| (k * 37 % 101) as f32 / 64.0 - 0.75).collect();
    let share = head["share"].as_f64().unwrap_or(1.0);
    let mix = match &head["box"] {
        Value::Null => Mix::Blended { share },
        part => {
            let [left, top, width, height] = numbers(part);
            Mix::Cut { part: CropBox { left, top, width, height }, share }
        }
    };
    let labels: Vec<u32> = (0..images).map(|image| (image * 5 % classes) as u32).collect();
    let mixup = Mixup { label_smoothing: head["smoothing"].as_f64().unwrap_or(0.0), ..Mixup::default() };
    mix.apply(&mut batch, (height, width));
    batch.extend(mixup.targets(mix, &labels, classes));
    batch.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn picture(head: &Value) -> Picture {
    match head["file"].as_str() {
        Some(file) => {
            let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
            decode(&bytes, Limits::default()).unwrap_or_else(|error| panic!("{file}: {error}"))
        }
        None => {
            let [width, height, kind] = numbers(&head["pattern"]);
            pattern(width, height, kind)
        }
    }
}

/// Gradients, edges and noise in whole numbers, the same in every language: kind 0 is smooth with edges, 1 noisy, 2 dark and flat.
fn pattern(width: usize, height: usize, kind: usize) -> Picture {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let noise = ((x * 7919 + y * 104_729 + channel * 1299 + 12345) * 2_654_435_761 % (1 << 32)) >> 20;
                rgb.push(match kind {
                    0 => {
                        let edge = if (x / 5 + y / 7 + channel) % 3 == 0 { 90 } else { 0 };
                        (x * 255 / width * (channel + 1) / 3 + y * 100 / height + edge).min(255)
                    }
                    1 => noise % 256,
                    _ => 40 + noise % 30 + x * 20 / width,
                } as u8);
            }
        }
    }
    Picture::new(width, height, rgb)
}

fn filter(head: &Value) -> Filter {
    if head["filter"] == "bicubic" { Filter::Bicubic } else { Filter::Bilinear }
}

fn numbers<const N: usize>(value: &Value) -> [usize; N] {
    std::array::from_fn(|k| {
        value[k].as_u64().unwrap_or_else(|| panic!("{value}: {N} whole numbers are expected")) as usize
    })
}
