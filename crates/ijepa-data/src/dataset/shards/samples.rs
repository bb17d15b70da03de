//! Which members of a tar are one sample? Those that follow one another and share a key, as WebDataset has it.
//!
//! The key is the path up to the first dot of the file's name: `a/b.cls` and `a/b.depth.png` belong to `a/b`. Of a sample's images
//! that with a plain ending (`b.jpg` before `b.depth.png`) counts, of several the first. The label is the number in `KEY.cls`, else the
//! integer `label` or `cls` of `KEY.json`; a negative one says that there is none.

use std::fs::File;

use super::super::files::ENDINGS;
use super::tape::{Lying, Member, Tape, Walk};
use crate::decode::Limits;

/// Longest `.cls` that is read; a number has at most 20 digits.
const CLASS_BYTES_MAX: u64 = 64;
/// Longest `.json` that is read for a label.
const JSON_BYTES_MAX: u64 = 1 << 20;

/// A member at the top of a shard with one class name a line.
const CLASSES: &str = "classes.txt";

/// What a shard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// Of the whole tar, unpacked.
    pub(super) bytes: u64,
    /// Samples in their order.
    pub(super) entries: Vec<Entry>,
    /// The names of their images, one after the other.
    pub(super) names: String,
    /// The text of `classes.txt`.
    pub(super) classes: Option<String>,
    /// Samples that hold no image; they are passed over.
    pub(super) without_image: u64,
    /// Images beside the one that counts of a sample.
    pub(super) beside: u64,
}

/// A sample's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the beginning of the tar.
    pub(super) offset: u64,
    pub(super) bytes: u32,
    /// Where its name ends in [`Index::names`].
    pub(super) name_end: u32,
    pub(super) label: Option<u32>,
}

impl Index {
    /// The name of a sample's image.
    pub(super) fn name(&self, sample: usize) -> &str {
        let begin = if sample == 0 { 0 } else { self.entries[sample - 1].name_end };
        &self.names[begin as usize..self.entries[sample].name_end as usize]
    }

    /// That of a tar in a file.
    pub(super) fn of(file: File) -> Result<Index, String> {
        let tape = Lying::new(file).map_err(|error| format!("cannot be read: {error}"))?;
        Ok(Index::read(tape)?.0)
    }

    /// That of a tar on any tape, which is read to its end.
    pub(super) fn read<T: Tape>(tape: T) -> Result<(Index, T), String> {
        let mut walk = Walk::new(tape);
        let mut index =
            Index { bytes: 0, entries: Vec::new(), names: String::new(), classes: None, without_image: 0, beside: 0 };
        let (mut present, mut any) = (Sample::default(), false);
        while let Some(member) = walk.next()? {
            any = true;
            let name = member.name.strip_prefix("./").unwrap_or(&member.name);
            if name == CLASSES {
                let text = String::from_utf8(walk.content(&member)?);
                index.classes = Some(text.map_err(|_| format!("{CLASSES} is no UTF-8 text"))?);
                continue;
            }
            let Some((key, ending)) = parts(&member.name) else { continue };
            if key != present.key {
                index.take(std::mem::take(&mut present))?;
                present.key = key.to_owned();
            }
            present.add(&member, &ending.to_ascii_lowercase(), &mut walk)?;
        }
        index.take(present)?;
        if index.entries.is_empty() {
            let found = if any { "no image in it" } else { "nothing in it" };
            return Err(format!("{found}: looked for members ending in {}; leave it out", ENDINGS.join(", ")));
        }
        let (bytes, tape) = walk.end();
        index.bytes = bytes;
        Ok((index, tape))
    }

    fn take(&mut self, sample: Sample) -> Result<(), String> {
        if sample.key.is_empty() {
            return Ok(());
        }
        let Some(image) = sample.image else {
            self.without_image += 1;
            return Ok(());
        };
        self.beside += sample.images - 1;
        self.names.push_str(&image.name);
        let name_end = u32::try_from(self.names.len()).map_err(|_| "more than 4 GiB of names; split it")?;
        let bytes = u32::try_from(image.bytes).ok().filter(|&bytes| u64::from(bytes) <= Limits::default().bytes);
        let bytes = bytes.ok_or_else(|| {
            let limit = Limits::default().bytes;
            format!("{} has {} bytes, over the limit of {limit} for an image; leave it out", image.name, image.bytes)
        })?;
        let label = sample.class.unwrap_or(sample.json);
        self.entries.push(Entry { offset: image.offset, bytes, name_end, label });
        Ok(())
    }
}

/// The members of one key, as far as they were met.
#[derive(Default)]
struct Sample {
    /// Empty before the first one.
    key: String,
    image: Option<Member>,
    plain: bool,
    images: u64,
    /// What `.cls` says, where there is one.
    class: Option<Option<u32>>,
    /// What `.json` says.
    json: Option<u32>,
}

impl Sample {
    fn add<T: Tape>(&mut self, member: &Member, ending: &str, walk: &mut Walk<T>) -> Result<(), String> {
        let last = ending.rsplit('.').next().unwrap_or(ending);
        if ENDINGS.contains(&last) {
            self.images += 1;
            let plain = last == ending;
            if self.image.is_none() || (plain && !self.plain) {
                self.plain = plain;
                self.image = Some(Member { name: member.name.clone(), ..*member });
            }
        } else if ending == "cls" {
            let wrong = |text: &str| format!("{} holds {text:?}, a class number is expected", member.name);
            if member.bytes > CLASS_BYTES_MAX {
                return Err(wrong(&format!("{} bytes", member.bytes)));
            }
            let text = String::from_utf8_lossy(&walk.content(member)?).into_owned();
            let number: i64 = text.trim().parse().map_err(|_| wrong(&text))?;
            self.class = Some(label(number).map_err(|()| wrong(&text))?);
        } else if ending == "json" && self.class.is_none() && member.bytes <= JSON_BYTES_MAX {
            // Written by many tools for many ends, some of them no strict JSON: what is not understood is no label.
            let value: serde_json::Value = serde_json::from_slice(&walk.content(member)?).unwrap_or_default();
            let number = ["label", "cls"].iter().find_map(|key| value.get(key)?.as_i64());
            self.json = number.and_then(|number| label(number).ok().flatten());
        }
        Ok(())
    }
}

/// A number from 0 is a label, a negative one none.
fn label(number: i64) -> Result<Option<u32>, ()> {
    if number < 0 { Ok(None) } else { u32::try_from(number).map(Some).map_err(|_| ()) }
}

/// Key and ending of a path; nothing for names without a dot, hidden ones, and folders that WebDataset keeps for itself (`__name__`).
fn parts(path: &str) -> Option<(&str, &str)> {
    let begin = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = begin + path[begin..].find('.')?;
    let own = |part: &str| part.len() > 4 && part.starts_with("__") && part.ends_with("__");
    if dot == begin || path[..begin].split('/').any(own) {
        return None;
    }
    Some((&path[..dot], &path[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_ends_at_the_first_dot_of_the_files_name(
            folder in "([a-z.]{1,6}/){0,3}",
            stem in "[a-z-]{1,8}",
            ending in "[a-z]{1,4}(\\.[a-z]{1,4}){0,2}",
        ) {
            let path = format!("{folder}{stem}.{ending}");
            let key = format!("{folder}{stem}");
            prop_assert_eq!(parts(&path), Some((key.as_str(), ending.as_str())));
        }

        #[test]
        fn any_name_is_taken_apart(path in "[a./_é]{0,12}") {
            if let Some((key, ending)) = parts(&path) {
                prop_assert_eq!(&format!("{key}.{ending}"), &path);
                prop_assert!(!ending.contains('/') && !key.is_empty());
            }
        }
    }

    #[test]
    fn what_belongs_to_no_sample_has_no_key() {
        for path in ["README", "a/.hidden.jpg", "a.b/", "a.b/c", "__meta__/x.json", "a/__x__/b.jpg", ""] {
            assert_eq!(parts(path), None, "{path}");
        }
    }
}
