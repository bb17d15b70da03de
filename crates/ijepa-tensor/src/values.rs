//! Many numbers that are only read: in memory of their own, or in a file of which the system brings in what is looked at.

use memmap2::{Mmap, MmapOptions};
use std::fmt::{Debug, Formatter, Result as Written};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// f32 values that are read.
#[derive(Clone)]
pub enum Values {
    /// In memory of their own.
    Owned(Vec<f32>),
    /// In a file.
    Mapped(Mapped),
}

/// A file of little-endian f32 values, seen as memory. It may be larger than memory.
#[derive(Clone)]
pub struct Mapped {
    bytes: Arc<Mmap>,
}

impl Values {
    /// `len` little-endian values of a file, from byte `offset` on, which is a multiple of 4.
    ///
    /// The file must stay as it is while the values are in use: a program that cuts it off ends this one (SIGBUS).
    ///
    /// # Errors
    /// When the file is shorter than that, or cannot be mapped.
    pub fn map(file: &File, offset: u64, len: usize) -> io::Result<Values> {
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        let bytes = len.checked_mul(size_of::<f32>()).ok_or_else(|| invalid(format!("{len} values")))?;
        let held = file.metadata()?.len();
        if offset.checked_add(bytes as u64).is_none_or(|end| end > held) {
            return Err(invalid(format!("{len} values from byte {offset} on are more than its {held} bytes")));
        }
        if bytes == 0 {
            return Ok(Values::Owned(Vec::new()));
        }
        // SAFETY: the map is only read, and lies inside the file; that nobody changes the file is asked of the caller above, and any
        // bytes are valid values.
        let bytes = unsafe { MmapOptions::new().offset(offset).len(bytes).map(file)? };
        let mapped = Mapped { bytes: Arc::new(bytes) };
        if cfg!(target_endian = "big") {
            let values = mapped.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            return Ok(values.collect());
        }
        Ok(Values::Mapped(mapped))
    }

    /// The values in memory of their own, to be changed; a copy where they lie in a file.
    pub fn to_mut(&mut self) -> &mut Vec<f32> {
        if let Values::Mapped(_) = self {
            *self = Values::Owned(self.to_vec());
        }
        match self {
            Values::Owned(values) => values,
            Values::Mapped(_) => unreachable!("it was replaced above"),
        }
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Values::Owned(values) => values,
            Values::Mapped(mapped) => bytemuck::cast_slice(&mapped.bytes),
        }
    }
}

impl Default for Values {
    fn default() -> Values {
        Values::Owned(Vec::new())
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Values {
        Values::Owned(values)
    }
}

impl FromIterator<f32> for Values {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Values {
        Values::Owned(values.into_iter().collect())
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Values) -> bool {
        **self == **other
    }
}

impl Debug for Values {
    fn fmt(&self, out: &mut Formatter) -> Written {
        self.deref().fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("ijepa-values-{}-{}", std::process::id(), bytes.len()));
        let mut file =
            File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("it opens");
        std::fs::remove_file(&path).expect("it was there");
        file.write_all(bytes).expect("it can be written");
        file
    }

    #[test]
    fn a_mapped_file_reads_like_the_values_in_it() {
        let bytes: Vec<u8> =
            [0.0f32, 1.5, -2.0, f32::MIN_POSITIVE].iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut mapped = Values::map(&file(&bytes), 4, 3).expect("it can be mapped");
        assert!(matches!(mapped, Values::Mapped(_)) || cfg!(target_endian = "big"));
        assert_eq!(*mapped, [1.5, -2.0, f32::MIN_POSITIVE]);
        assert_eq!(mapped, Values::from(vec![1.5, -2.0, f32::MIN_POSITIVE]));
        mapped.to_mut()[0] = 3.0;
        assert_eq!(*mapped, [3.0, -2.0, f32::MIN_POSITIVE]);
    }

    #[test]
    fn more_values_than_a_file_has_are_refused() {
        for (offset, len) in [(0, 3), (8, 1), (u64::MAX, 1), (0, usize::MAX)] {
            assert!(Values::map(&file(&[0; 8]), offset, len).is_err(), "{offset} {len}");
        }
        assert!(Values::map(&file(&[0; 8]), 8, 0).expect("nothing is there").is_empty());
    }
}
