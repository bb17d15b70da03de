//! Which images does a list name, and where are they?
//!
//! One image a line. After the path, a label may follow: behind a tab; or behind the last comma or space before which the line ends as an
//! image's name does, so both may be part of names (`a, b.jpg,7`); or, where no such place is found, behind the last comma. A line that
//! itself ends as an image's name does has no label. There is no quoting; blanks around a path or a label count for nothing, and a
//! first line that only names its columns is passed over. Labels are numbers when all are, or else the names of classes, which get
//! their numbers in lexicographic order.
//!
//! Lists are not kept in an index: a million lines are read in a fifth of a second.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::paths::{Paths, as_path};
use super::{has_image_ending, split_names};
use crate::dataset::Split;
use crate::error::DataError;

/// Lines whose files must be there. A list may name millions, and asking a disk for each takes minutes.
const CHECKED: usize = 8;

/// Longest line, in bytes: paths on Linux end at 4,096.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Bytes to begin with for the paths, lest what is only sparsely a file of terabytes asks for as much memory.
const PATH_BYTES: u64 = 64 << 20;

/// The mark that some editors put before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What the first line of a table may call its first column.
const HEADINGS: [&[u8]; 7] = [b"path", b"paths", b"file", b"filename", b"file_name", b"image", b"image_path"];

/// What a list says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) root: PathBuf,
    pub(super) paths: Paths,
    pub(super) labels: Option<Vec<u32>>,
    pub(super) classes: Option<Vec<String>>,
}

/// Where the paths of a list lead.
struct Place {
    root: PathBuf,
    /// Whether a name lies in the folder that it begins with.
    by_class: bool,
}

/// Reads the list at `path`.
pub(super) fn read(path: &Path, split: Split) -> Result<List, DataError> {
    let mut lines = Lines::open(path)?;
    let bytes = lines.bytes.min(PATH_BYTES);
    let mut paths = Paths::with_capacity(0, bytes as usize);
    let mut labels = Labels::default();
    let mut place: Option<Place> = None;
    while let Some((line, text)) = lines.next()? {
        let (name, label) = cut(text);
        if name.is_empty() || as_path(name).is_none() {
            return Err(wrong(path, line, "a path is expected before the label, in UTF-8".into()));
        }
        if place.is_none() {
            place = Place::find(path, split, name);
            if place.is_none() && line == 1 && HEADINGS.iter().any(|heading| name.eq_ignore_ascii_case(heading)) {
                continue;
            }
        }
        let Some(place) = place.as_ref().filter(|place| paths.len() >= CHECKED || place.has(name)) else {
            return Err(wrong(path, line, missing(path, place.as_ref(), name)));
        };
        if place.by_class {
            let no_class =
                || format!("{} begins with no class and `_`, as the first path does", String::from_utf8_lossy(name));
            let class = class_of(name).ok_or_else(|| wrong(path, line, no_class()))?;
            paths.push(class, name);
            labels.push(line, Some(label.unwrap_or(class)));
        } else {
            paths.push(b"", name);
            labels.push(line, label);
        }
    }
    let Some(place) = place else {
        let problem = "the list is empty; one path a line is expected".into();
        return Err(DataError::Content { path: path.to_owned(), problem });
    };
    paths.shrink();
    let (labels, classes) = labels.finish().map_err(|(line, problem)| wrong(path, line, problem))?;
    Ok(List { root: place.root, paths, labels, classes })
}

fn wrong(list: &Path, line: u64, problem: String) -> DataError {
    DataError::Content { path: list.to_owned(), problem: format!("line {line}: {problem}") }
}

/// The lines of a list that say something.
struct Lines<'a> {
    path: &'a Path,
    file: BufReader<File>,
    bytes: u64,
    line: Vec<u8>,
    number: u64,
}

impl Lines<'_> {
    fn open(path: &Path) -> Result<Lines<'_>, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        Ok(Lines { path, file: BufReader::with_capacity(256 << 10, file), bytes, line: Vec::new(), number: 0 })
    }

    /// The next line that is neither empty nor a comment, without the blanks around it, and its number from 1.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>, DataError> {
        loop {
            self.line.clear();
            let line = (&mut self.file).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
            let taken = line.map_err(|source| DataError::Io { path: self.path.to_owned(), source })?;
            if taken == 0 {
                return Ok(None);
            }
            self.number += 1;
            if taken as u64 == LINE_BYTES_MAX || self.line.contains(&0) {
                let problem = "too long, or holds a zero byte: not a list; one path a line is expected, in UTF-8";
                return Err(wrong(self.path, self.number, problem.into()));
            }
            if self.number == 1 && self.line.starts_with(MARK) {
                self.line.drain(..MARK.len());
            }
            let text = self.line.trim_ascii();
            if !text.is_empty() && !text.starts_with(b"#") {
                break;
            }
        }
        Ok(Some((self.number, self.line.trim_ascii())))
    }
}

/// The path and the label of a line.
fn cut(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let whole = (line, None);
    let at = |at: usize| (line[..at].trim_ascii_end(), Some(line[at + 1..].trim_ascii_start()));
    if let Some(tab) = memchr::memchr(b'\t', line) {
        return at(tab);
    }
    if has_image_ending(line) {
        return whole;
    }
    let behind_image = |&at: &usize| has_image_ending(line[..at].trim_ascii_end());
    memchr::memrchr2_iter(b',', b' ', line).find(behind_image).or_else(|| memchr::memrchr(b',', line)).map_or(whole, at)
}

/// `n01440764` of `n01440764_10026.JPEG`.
fn class_of(name: &[u8]) -> Option<&[u8]> {
    let class = &name[..memchr::memchr(b'_', name)?];
    (!class.is_empty() && !name.contains(&b'/')).then_some(class)
}

impl Place {
    /// Where the first path of a list leads to a file.
    fn find(list: &Path, split: Split, name: &[u8]) -> Option<Place> {
        let folder = list.parent().unwrap_or(Path::new(""));
        let beside = split_names(split).iter().map(|name| folder.join(name));
        let roots: Vec<PathBuf> = std::iter::once(folder.to_owned()).chain(beside).collect();
        let places = [false, true].into_iter().flat_map(|by_class| roots.iter().map(move |root| (root, by_class)));
        places.map(|(root, by_class)| Place { root: root.clone(), by_class }).find(|place| place.has(name))
    }

    fn has(&self, name: &[u8]) -> bool {
        let folder = if self.by_class { class_of(name) } else { Some(b"".as_slice()) };
        let paths = folder.and_then(as_path).zip(as_path(name));
        paths.is_some_and(|(folder, name)| self.root.join(folder).join(name).is_file())
    }
}

fn missing(list: &Path, place: Option<&Place>, name: &[u8]) -> String {
    let folder = match place {
        Some(place) => &place.root,
        None => list.parent().unwrap_or(Path::new("")),
    };
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    format!(
        "there is no file {} in {}; paths are relative to the list's folder or absolute, with a label perhaps, behind a tab or comma",
        String::from_utf8_lossy(name),
        folder.display()
    )
}

/// Labels in the making: every different one once, in the order of their first lines.
#[derive(Default)]
struct Labels {
    seen: HashMap<Vec<u8>, (u32, u64)>, // number, first line
    of: Vec<u32>,
    with: Option<u64>,    // the first line with a label
    without: Option<u64>, // and the first one without
}

impl Labels {
    fn push(&mut self, line: u64, label: Option<&[u8]>) {
        let Some(label) = label.filter(|label| !label.is_empty()) else {
            self.without.get_or_insert(line);
            return;
        };
        self.with.get_or_insert(line);
        let next = self.seen.len() as u32;
        let number = match self.seen.get(label) {
            Some((number, _)) => *number,
            None => {
                self.seen.insert(label.to_owned(), (next, line));
                next
            }
        };
        self.of.push(number);
    }

    /// The label of every line and the names of the classes; or a line and what is wrong with it.
    #[expect(clippy::type_complexity, reason = "taken apart where it is called")]
    fn finish(self) -> Result<(Option<Vec<u32>>, Option<Vec<String>>), (u64, String)> {
        match (self.with, self.without) {
            (None, _) => return Ok((None, None)),
            (Some(with), Some(without)) => {
                return Err((without, format!("no label, but line {with} has one; label all lines, or none")));
            }
            (Some(_), None) => (),
        }
        let integer = |label: &[u8]| std::str::from_utf8(label).ok()?.parse::<i64>().ok();
        let mut names: Vec<(Vec<u8>, (u32, u64))> = self.seen.into_iter().collect();
        let mut label_of = vec![0; names.len()];
        if names.iter().all(|(name, _)| integer(name).is_some()) {
            // The same line is named every time.
            names.sort_unstable_by_key(|(_, (_, line))| *line);
            for (name, (number, line)) in names {
                let label = integer(&name).and_then(|label| u32::try_from(label).ok());
                let wrong = || format!("label {} is not a class number from 0", String::from_utf8_lossy(&name));
                label_of[number as usize] = label.ok_or_else(|| (line, wrong()))?;
            }
            return Ok((Some(self.of.iter().map(|&number| label_of[number as usize]).collect()), None));
        }
        names.sort_unstable();
        for (label, (_, (number, _))) in names.iter().enumerate() {
            label_of[*number as usize] = label as u32;
        }
        let labels = self.of.iter().map(|&number| label_of[number as usize]).collect();
        let classes = names.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        Ok((Some(labels), Some(classes)))
    }
}
