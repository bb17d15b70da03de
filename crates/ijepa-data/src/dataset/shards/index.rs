//! How is what was found in a shard kept, and when is it good again?
//!
//! One file a shard: whose it is, what the shard holds, and a checksum over both. It is good for the same shard in the same version
//! (path, length and time of change of a file; address, length and ETag or Last-Modified of a download); anything else, damage
//! included, means that the shard is read anew. Of a server that names neither, the length alone tells versions apart.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::samples::{Entry, Index};
use crate::error::DataError;

/// Another format gets another number.
const MAGIC: &[u8] = b"ijepa shard 1\n";
/// offset, bytes, end of the name, label.
const ENTRY_BYTES: usize = 8 + 4 + 4 + 8;

/// A shard in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// A path or an address.
    pub(super) of: String,
    /// What changes when its content does.
    pub(super) stamp: String,
}

impl Version {
    /// A name for files that belong to this version alone.
    pub(super) fn name(&self) -> String {
        hash(&format!("{}\n{}", self.of, self.stamp))
    }

    fn file(&self, folder: &Path) -> PathBuf {
        // A new version takes the place of the old one.
        folder.join(format!("{}.shard", hash(&self.of)))
    }

    fn line(&self) -> String {
        format!("{}\n{}", self.of, self.stamp)
    }

    /// What was kept of this version.
    pub(super) fn load(&self, folder: &Path) -> Option<Index> {
        parse(&fs::read(self.file(folder)).ok()?, &self.line())
    }

    /// Keeps `index` for the next time.
    pub(super) fn keep(&self, index: &Index, folder: &Path) -> Result<(), DataError> {
        let path = self.file(folder);
        // Several processes may keep the same at once; each writes a file of its own and renames it.
        let own = path.with_extension(format!("{}.new", std::process::id()));
        let write = || {
            fs::create_dir_all(folder)?;
            fs::File::create(&own)?.write_all(&bytes(index, &self.line()))?;
            fs::rename(&own, &path)
        };
        write().map_err(|source| {
            // What could be written of it is of no use.
            let _ = fs::remove_file(&own);
            DataError::Io { path, source }
        })
    }
}

/// FNV-1a in 128 bits, as 32 digits: the same for all time, on all machines.
fn hash(text: &str) -> String {
    let digest = text.bytes().fold(0x6c62272e07bb014262b821756295c58d_u128, |digest, byte| {
        (digest ^ u128::from(byte)).wrapping_mul(0x0000000001000000000000000000013b)
    });
    format!("{digest:032x}")
}

fn bytes(index: &Index, version: &str) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    text(&mut out, version);
    for number in [index.bytes, index.without_image, index.beside, u64::from(index.classes.is_some())] {
        out.extend(number.to_le_bytes());
    }
    text(&mut out, index.classes.as_deref().unwrap_or_default());
    text(&mut out, &index.names);
    out.extend((index.entries.len() as u64).to_le_bytes());
    for entry in &index.entries {
        out.extend(entry.offset.to_le_bytes());
        out.extend(entry.bytes.to_le_bytes());
        out.extend(entry.name_end.to_le_bytes());
        out.extend(entry.label.map_or(-1, i64::from).to_le_bytes());
    }
    out.extend(checksum(&out).to_le_bytes());
    out
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The index in `bytes`, if they are whole and of `version`.
fn parse(bytes: &[u8], version: &str) -> Option<Index> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    if checksum(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut left = bytes.strip_prefix(MAGIC)?;
    if text(&mut left)? != version {
        return None;
    }
    let (bytes, without_image, beside) = (number(&mut left)?, number(&mut left)?, number(&mut left)?);
    let classes = number(&mut left)? != 0;
    let classes = Some(text(&mut left)?).filter(|_| classes);
    let names = text(&mut left)?;
    let count = usize::try_from(number(&mut left)?).ok()?;
    if count.checked_mul(ENTRY_BYTES)? != left.len() {
        return None;
    }
    let entries = left.chunks_exact(ENTRY_BYTES).map(|chunk| {
        let mut left = chunk;
        let offset = number(&mut left)?;
        let (bytes, rest) = left.split_first_chunk()?;
        let (name_end, label) = rest.split_first_chunk()?;
        let label = i64::from_le_bytes(label.try_into().ok()?);
        let label = u32::try_from(label).ok();
        Some(Entry { offset, bytes: u32::from_le_bytes(*bytes), name_end: u32::from_le_bytes(*name_end), label })
    });
    let entries: Vec<Entry> = entries.collect::<Option<_>>()?;
    // The checksum rules out damage, not another program's idea of this format.
    let ends = entries.iter().map(|entry| entry.name_end as usize);
    let sound = ends.clone().is_sorted() && ends.clone().all(|end| names.is_char_boundary(end)) && count > 0;
    sound.then_some(Index { bytes, entries, names, classes, without_image, beside })
}

fn number(left: &mut &[u8]) -> Option<u64> {
    let (number, rest) = left.split_first_chunk()?;
    *left = rest;
    Some(u64::from_le_bytes(*number))
}

fn text(left: &mut &[u8]) -> Option<String> {
    let bytes = usize::try_from(number(left)?).ok()?;
    let (text, rest) = left.split_at_checked(bytes)?;
    *left = rest;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Index {
        let entry = |offset, name_end, label| Entry { offset, bytes: 7, name_end, label };
        Index {
            bytes: 10240,
            entries: vec![entry(512, 5, Some(3)), entry(1 << 40, 10, None)],
            names: "a.jpgé.png".into(),
            classes: Some("cat\ndog\n".into()),
            without_image: 2,
            beside: 1,
        }
    }

    #[test]
    fn an_index_comes_back_as_it_was_for_its_own_version_alone() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let version = Version { of: "x.tar".into(), stamp: "1".into() };
        let index = Index { names: "a.jpgb.png".into(), ..example() };
        assert_eq!(version.load(folder.path()), None);
        version.keep(&index, folder.path()).expect("kept");
        assert_eq!(version.load(folder.path()), Some(index.clone()));
        let newer = Version { stamp: "2".into(), ..version.clone() };
        assert_eq!(newer.load(folder.path()), None);
        newer.keep(&index, folder.path()).expect("kept");
        assert_eq!(version.load(folder.path()), None);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
    }

    #[test]
    fn names_cut_inside_a_letter_are_no_index() {
        // The fifth byte of its names is whole, the sixth is not.
        let mut index = example();
        assert_eq!(parse(&bytes(&index, "v"), "v"), Some(index.clone()));
        index.entries[0].name_end = 6;
        assert_eq!(parse(&bytes(&index, "v"), "v"), None);
    }

    proptest! {
        #[test]
        fn a_damaged_index_is_none(at in 0usize..200, bit in 0u8..8, cut in 0usize..200) {
            let whole = bytes(&example(), "version");
            let mut damaged = whole.clone();
            damaged[at % whole.len()] ^= 1 << bit;
            prop_assert_eq!(parse(&damaged, "version"), None);
            prop_assert_eq!(parse(&whole[..cut % whole.len()], "version"), None);
        }
    }
}
