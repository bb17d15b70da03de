//! How are a million paths kept? End to end in one buffer, with the place where each one ends.
//!
//! A `PathBuf` costs 24 bytes, the allocator's share and a pointer to follow; here a path costs its bytes and 8 more.

use std::ffi::OsStr;
use std::path::Path;

/// Relative paths, their parts joined by `/` on every system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Paths {
    bytes: Vec<u8>,
    ends: Vec<u64>,
}

impl Paths {
    pub(super) fn with_capacity(paths: usize, bytes: usize) -> Paths {
        Paths { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(paths) }
    }

    /// The paths of [`Paths::bytes`] and [`Paths::ends`], unless they do not fit together or this system has no such paths.
    pub(super) fn from_parts(bytes: Vec<u8>, ends: Vec<u64>) -> Option<Paths> {
        let whole = ends.last().copied().unwrap_or(0) == bytes.len() as u64 && ends.is_sorted();
        let paths = Paths { bytes, ends };
        (whole && paths.iter().all(|path| as_path(path).is_some())).then_some(paths)
    }

    /// Adds `folder`/`name`; with an empty folder, `name` alone.
    pub(super) fn push(&mut self, folder: &[u8], name: &[u8]) {
        self.bytes.extend_from_slice(folder);
        if !folder.is_empty() {
            self.bytes.push(b'/');
        }
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len() as u64);
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// The same paths in the order of their bytes.
    pub(super) fn sorted(&self) -> Paths {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by_key(|&index| self.get(index));
        let mut sorted = Paths::with_capacity(self.len(), self.bytes.len());
        for index in order {
            sorted.push(b"", self.get(index));
        }
        sorted
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// The bytes of a name; nothing for a name that cannot be kept: outside Unix, one that is not Unicode.
pub(super) fn as_bytes(name: &OsStr) -> Option<&[u8]> {
    #[cfg(unix)]
    return Some(std::os::unix::ffi::OsStrExt::as_bytes(name));
    #[cfg(not(unix))]
    return name.to_str().map(str::as_bytes);
}

/// The path of these bytes; nothing where this system has no such path.
pub(super) fn as_path(bytes: &[u8]) -> Option<&Path> {
    #[cfg(unix)]
    return Some(Path::new(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes)));
    #[cfg(not(unix))]
    return std::str::from_utf8(bytes).ok().map(Path::new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let bytes = if cfg!(unix) { 0u8..=255 } else { 0u8..=127 };
        prop::collection::vec(prop::collection::vec(bytes, 0..12), 0..20)
    }

    proptest! {
        #[test]
        fn paths_come_back_as_they_went_in(names in names()) {
            let mut paths = Paths::default();
            for name in &names {
                paths.push(b"", name);
                paths.push(b"a/b", name);
            }
            prop_assert_eq!(paths.len(), 2 * names.len());
            for (index, name) in names.iter().enumerate() {
                prop_assert_eq!(paths.get(2 * index), name.as_slice());
                prop_assert_eq!(paths.get(2 * index + 1), [b"a/b/", name.as_slice()].concat());
                let path = as_path(name).expect("a path of this system");
                prop_assert_eq!(as_bytes(path.as_os_str()), Some(name.as_slice()));
            }
            let again = Paths::from_parts(paths.bytes().to_vec(), paths.ends().to_vec());
            prop_assert_eq!(again.as_ref(), Some(&paths));
        }

        #[test]
        fn sorting_is_by_bytes(mut names in names()) {
            let mut paths = Paths::default();
            names.iter().for_each(|name| paths.push(b"", name));
            names.sort();
            prop_assert!(paths.sorted().iter().eq(names.iter().map(Vec::as_slice)));
        }

        #[test]
        fn ends_that_do_not_fit_are_refused(bytes in prop::collection::vec(0u8..127, 0..20), ends in prop::collection::vec(0u64..25, 0..6)) {
            let total = bytes.len() as u64;
            let fits = ends.is_sorted() && ends.last().map_or(total == 0, |&end| end == total);
            prop_assert_eq!(Paths::from_parts(bytes, ends).is_some(), fits);
        }
    }
}
