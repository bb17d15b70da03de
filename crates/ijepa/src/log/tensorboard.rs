//! TensorBoard event files.
//!
//! A file is a sequence of TFRecords: length (u64), masked CRC-32C of the length, data, masked CRC-32C of the data, all little
//! endian; masked(c) = (c rotated right by 15) + 0xa282ead8. The data is a protocol-buffer `Event` (tensorflow/core/util/event.proto):
//! 1 wall_time double · 2 step int64 · 3 file_version string · 5 summary { 1 value { 1 tag string · 2 simple_value float } } ·
//! 7 session_log { 1 status enum }. A reader that meets `SessionLog.START` (1) at step s forgets what it read of steps s and later,
//! which is how a resumed run replaces what was lost.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::{Row, Seen};

/// An open event file.
pub(super) struct Events {
    file: File,
}

impl Events {
    /// A new event file in `folder`, for a run that is about to do step `start_step`.
    pub(super) fn create(folder: &Path, start_step: u64) -> Result<Events> {
        // TensorBoard reads the files of a folder in the order of their names.
        let seconds = now().floor();
        let path = folder.join(format!("events.out.tfevents.{seconds:010.0}.{}.ijepa", std::process::id()));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Events { file };
        events.event(0, &bytes(3, b"brain.Event:2"))?;
        if start_step > 0 {
            events.event(start_step, &bytes(7, &varint_field(1, 1)))?;
        }
        Ok(events)
    }

    /// The row of a step.
    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        self.scalars(
            row.step,
            &[
                ("train/loss", row.loss),
                ("train/lr", row.lr),
                ("train/wd", row.wd),
                ("train/ema", row.ema),
                ("train/grad_norm", row.grad_norm),
                ("train/target_std", row.target_std),
                ("masks/context_patches", row.context_patches),
                ("masks/target_patches", row.target_patches),
                ("speed/img_per_s", row.img_per_s),
                ("speed/step_ms", row.step_ms),
                ("speed/data_ms", row.data_ms),
            ],
        )
    }

    /// What was seen of the features after a step.
    pub(super) fn seen(&mut self, seen: &Seen) -> io::Result<()> {
        let mut values = vec![
            ("eval/rank_me", seen.rank_me),
            ("eval/effective_rank", seen.effective_rank),
            ("eval/feature_std", seen.feature_std),
            ("eval/loss_of_mean", seen.loss_of_mean),
        ];
        values.extend(seen.knn.map(|knn| ("eval/knn", knn)));
        self.scalars(seen.step, &values)
    }

    /// Named values of a step, in one record.
    pub(super) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut one = bytes(1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend((*value as f32).to_le_bytes());
            summary.extend(bytes(1, &one));
        }
        self.event(step, &bytes(5, &summary))
    }

    fn event(&mut self, step: u64, what: &[u8]) -> io::Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend(now().to_le_bytes());
        event.extend(varint_field(2, step));
        event.extend(what);
        self.file.write_all(&record(&event))
    }
}

/// Seconds since 1970; 0 on a machine whose clock says earlier.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// One TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked(&length)[..], data, &masked(data)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A protocol-buffer field of wire type 0.
fn varint_field(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

/// A protocol-buffer field of wire type 2.
fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_as_tensorflow_frames_it() {
        // The first record of every event file TensorFlow writes, with wall_time 0 and no step:
        // file_version "brain.Event:2".
        let data = [&[9][..], &0f64.to_le_bytes(), &bytes(3, b"brain.Event:2")].concat();
        let framed = record(&data);
        assert_eq!(framed.len(), 12 + 24 + 4);
        assert_eq!(framed[..8], 24u64.to_le_bytes());
        // The length's masked CRC, as in files written by TensorFlow: 24 bytes -> a3 7f 4b 22.
        assert_eq!(framed[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn varints_are_little_endian_groups_of_seven_bits() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }
}
