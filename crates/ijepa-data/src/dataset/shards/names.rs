//! Which shards does a text name?
//!
//! One shard, a pattern with brace ranges (`train-{000000..001281}.tar`) and lists (`{a,b}`, of ranges too), as a path or as an
//! `http(s)` address; or a folder that holds shards. Shards of a pattern keep its order, those of a folder the order of their names.
//!
//! Of a folder, `train/` or `val/` is taken where it is there, as in an image tree. Else the names may say the split: a word `train`,
//! `val`, `valid`, `validation` or `test` of letters alone, as in `imagenet1k-train-0003.tar`. Where no name says train or val, all
//! shards serve both splits; where some do and others say nothing, the folder is refused: whatever was meant, half of the guesses
//! would train on what is measured.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::Split;
use super::super::files::{Files, has_image_ending, split_folder};
use crate::error::DataError;

const ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// Most shards that a pattern may name: far above any data set, and named before anything is allocated for them.
const SHARDS_MAX: usize = 1_000_000;
/// Most braces of a pattern, which are taken apart one inside the other.
const BRACES_MAX: usize = 64;

/// Where a shard lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine.
    File(PathBuf),
    /// At an address.
    Web(String),
}

/// The shards that `spec` names, or nothing when it names something else.
pub(super) fn find(spec: &str, split: Split) -> Result<Option<Vec<Place>>, DataError> {
    let wrong = |problem: String| DataError::Source { spec: spec.into(), problem };
    let web = spec.starts_with("http://") || spec.starts_with("https://");
    if !web {
        // A path that is there is meant as it stands, braces or not.
        if let Ok(metadata) = fs::metadata(spec) {
            if metadata.is_dir() {
                return folder(Path::new(spec), split);
            }
            return Ok(is_shard(spec).then(|| vec![Place::File(spec.into())]));
        }
        if !spec.contains('{') {
            return Ok(None);
        }
    }
    let names = match expand(spec) {
        Ok(names) => names,
        Err(problem) if ENDINGS.iter().any(|ending| spec.contains(ending)) => return Err(wrong(problem)),
        Err(_) => return Ok(None),
    };
    let Some(shard) = names.iter().find(|name| is_shard(path_of(name))) else { return Ok(None) };
    if let Some(other) = names.iter().find(|name| !is_shard(path_of(name))) {
        return Err(wrong(format!("{shard} is a shard and {other} is none; name shards alone, or give two runs")));
    }
    let mut met = HashSet::new();
    // Copies are known by what stands before the query, so that a signature may change from run to run.
    if let Some(twice) = names.iter().map(|name| path_of(name)).find(|name| !met.insert(*name)) {
        return Err(wrong(format!("{twice} is named twice; name every shard once, by more than its query")));
    }
    if web {
        return Ok(Some(names.into_iter().map(Place::Web).collect()));
    }
    let missing: Vec<&String> = names.iter().filter(|name| !Path::new(name).is_file()).collect();
    if let Some(first) = missing.first() {
        let (missing, all) = (missing.len(), names.len());
        return Err(wrong(format!(
            "{missing} of {all} shards are not there, the first is {first}; name those that are"
        )));
    }
    Ok(Some(names.into_iter().map(|name| Place::File(name.into())).collect()))
}

/// An address without its query, where secrets stand; a path as it is.
pub(super) fn path_of(name: &str) -> &str {
    if name.starts_with("http://") || name.starts_with("https://") {
        name.split(['?', '#']).next().unwrap_or(name)
    } else {
        name
    }
}

fn is_shard(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// All texts that a pattern stands for, in its order.
fn expand(pattern: &str) -> Result<Vec<String>, String> {
    if pattern.matches('{').count() > BRACES_MAX {
        return Err(format!("more than {BRACES_MAX} braces; name the shards in several parts"));
    }
    let Some(open) = pattern.find('{') else {
        return if pattern.contains('}') { Err("a `}` without its `{`".into()) } else { Ok(vec![pattern.into()]) };
    };
    let head = &pattern[..open];
    if head.contains('}') {
        return Err("a `}` without its `{`".into());
    }
    let close = closing(&pattern[open..]).ok_or("a `{` without its `}`")? + open;
    let (inner, tail) = (&pattern[open + 1..close], &pattern[close + 1..]);
    let middles = match range(inner) {
        Some(numbers) => numbers?,
        None => list(inner)?,
    };
    let tails = expand(tail)?;
    if middles.len().saturating_mul(tails.len()) > SHARDS_MAX {
        return Err(format!("more than {SHARDS_MAX} shards are named"));
    }
    let all = middles.iter().flat_map(|middle| tails.iter().map(move |tail| format!("{head}{middle}{tail}")));
    Ok(all.collect())
}

/// Where the brace ends that `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, letter)| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        (depth == 0).then_some(at)
    })
}

/// `first..last` or `first..last..step`, padded with zeros where one of the ends is; nothing when it is no range.
fn range(inner: &str) -> Option<Result<Vec<String>, String>> {
    let mut parts = inner.split("..");
    let (first, last, step) = (parts.next()?, parts.next()?, parts.next().unwrap_or("1"));
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (from, to, step) = (number(first)?, number(last)?, number(step)?);
    if parts.next().is_some() {
        return None;
    }
    if step == 0 {
        return Some(Err(format!("{{{inner}}} has a step of 0; give 1 or more")));
    }
    let count = from.abs_diff(to) / step + 1;
    if count > SHARDS_MAX as u64 {
        return Some(Err(format!("{{{inner}}} names {count} shards, at most {SHARDS_MAX} are taken")));
    }
    let padded = [first, last].iter().any(|end| end.len() > 1 && end.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 1 };
    let numbers = (0..count).map(|k| if from <= to { from + k * step } else { from - k * step });
    Some(Ok(numbers.map(|number| format!("{number:0width$}")).collect()))
}

/// `a,b,...`, each of which may hold braces again.
fn list(inner: &str) -> Result<Vec<String>, String> {
    let mut depth = 0;
    let parts: Vec<&str> = inner
        .split(|letter| {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => (),
            }
            letter == ',' && depth == 0
        })
        .collect();
    if parts.len() < 2 {
        return Err(format!("{{{inner}}} is neither a range such as {{000..127}} nor a list such as {{a,b}}"));
    }
    let mut all = Vec::new();
    for part in parts {
        all.extend(expand(part)?);
        if all.len() > SHARDS_MAX {
            return Err(format!("more than {SHARDS_MAX} shards are named"));
        }
    }
    Ok(all)
}

/// The shards of a folder. Where images lie beside them, in the folder or below it, it is an image tree as it ever was.
fn folder(path: &Path, split: Split) -> Result<Option<Vec<Place>>, DataError> {
    let root = split_folder(path, split)?;
    let io = |source| DataError::Io { path: root.clone(), source };
    let (mut shards, mut others) = (Vec::new(), false);
    for entry in fs::read_dir(&root).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if !is_shard(&name) {
            // Links are followed only where nothing else was found yet: a folder may have a million entries.
            others = others || has_image_ending(name.as_bytes()) || entry.path().is_dir();
        } else if entry.path().is_file() {
            shards.push(name);
        }
    }
    if shards.is_empty() {
        return Ok(None);
    }
    if others && !matches!(Files::open(path, split, None), Err(DataError::NoImages { .. })) {
        return Ok(None);
    }
    shards.sort();
    let wrong = |problem: String| DataError::Source { spec: root.display().to_string(), problem };
    if let Some((first, second)) = twins(&shards) {
        return Err(wrong(format!("{first} and {second} are one shard twice; move one away")));
    }
    let shards = if root == path { of_split(shards, split).map_err(wrong)? } else { shards };
    Ok(Some(shards.into_iter().map(|name| Place::File(root.join(name))).collect()))
}

/// Two names that differ in their endings alone, as `gunzip --keep` leaves them.
fn twins(sorted: &[String]) -> Option<(&String, &String)> {
    let stem = |name: &str| {
        let name = name.to_ascii_lowercase();
        ENDINGS.iter().find_map(|ending| name.strip_suffix(ending).map(str::to_owned)).unwrap_or(name)
    };
    let mut met = std::collections::HashMap::new();
    sorted.iter().find_map(|name| met.insert(stem(name), name).map(|first| (first, name)))
}

/// Those of a split, where the names say it.
fn of_split(shards: Vec<String>, split: Split) -> Result<Vec<String>, String> {
    const WORDS: [&str; 5] = ["train", "val", "validation", "valid", "test"];
    let word = |name: &str| {
        let mut words = name.split(|letter: char| !letter.is_ascii_alphabetic());
        words.find_map(|word| WORDS.into_iter().find(|known| word.eq_ignore_ascii_case(known)))
    };
    let said: Vec<Option<&str>> = shards.iter().map(|name| word(name)).collect();
    // A lone `test` may be a test of something else, as in an image tree.
    if said.iter().flatten().all(|&word| word == "test") {
        return Ok(shards);
    }
    if let Some(silent) = said.iter().position(Option::is_none) {
        return Err(format!(
            "some shards say train or val in their names and {} does not; name the shards by a brace range",
            shards[silent]
        ));
    }
    let wanted: &[&str] = match split {
        Split::Train => &WORDS[..1],
        Split::Val => &WORDS[1..],
    };
    let Some(found) = wanted.iter().find(|wanted| said.contains(&Some(**wanted))) else {
        let (has, wanted) = (said[0].unwrap_or_default(), wanted.join(", "));
        return Err(format!(
            "has shards named {has} but none named {wanted}; add them, or name the shards by a brace range"
        ));
    };
    let chosen = shards.into_iter().zip(&said).filter(|(_, word)| **word == Some(*found));
    Ok(chosen.map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_names_every_number_once_as_wide_as_its_ends(
            from in 0u64..2000,
            to in 0u64..2000,
            step in 1u64..50,
            width in 1usize..8,
            padded: bool,
        ) {
            let end = |number: u64| if padded { format!("{number:0width$}") } else { number.to_string() };
            let names = expand(&format!("a-{{{}..{}..{step}}}.tar", end(from), end(to))).expect("a range");
            let numbers: Vec<u64> = names.iter().map(|name| name[2..name.len() - 4].parse().expect("a number")).collect();
            let mut expected: Vec<u64> = (from.min(to)..=from.max(to)).collect();
            if from > to {
                expected.reverse();
            }
            prop_assert_eq!(numbers, expected.into_iter().step_by(step as usize).collect::<Vec<_>>());
            let zeros = [end(from), end(to)].iter().any(|end| end.len() > 1 && end.starts_with('0'));
            if zeros {
                let width = end(from).len().max(end(to).len());
                prop_assert!(names.iter().all(|name| name.len() == 6 + width));
            } else {
                prop_assert!(names.iter().all(|name| name.len() == 7 || !name[2..].starts_with('0')));
            }
        }

        #[test]
        fn a_list_names_its_parts_in_order(parts in prop::collection::vec("[a-z0-9-]{0,6}", 2..6), tail in "[a-z.]{0,5}") {
            let names = expand(&format!("x{{{}}}{tail}", parts.join(","))).expect("a list");
            let expected: Vec<String> = parts.iter().map(|part| format!("x{part}{tail}")).collect();
            prop_assert_eq!(names, expected);
        }

        #[test]
        fn any_text_is_taken_apart_or_refused(text in "[{},.0-9a]{0,40}") {
            if let Ok(names) = expand(&text) {
                prop_assert!(names.len() <= SHARDS_MAX);
                let braces = names.iter().any(|name| name.contains(['{', '}']));
                prop_assert!(!braces);
            }
        }
    }

    #[test]
    fn several_ranges_and_nested_lists_multiply() {
        assert_eq!(expand("{0..1}/{8..10}").expect("ranges"), ["0/8", "0/9", "0/10", "1/8", "1/9", "1/10"]);
        assert_eq!(expand("{a-{00..01},b}.tar").expect("a list"), ["a-00.tar", "a-01.tar", "b.tar"]);
        assert_eq!(expand("plain.tar").expect("no braces"), ["plain.tar"]);
    }

    #[test]
    fn patterns_that_mean_nothing_or_too_much_are_refused() {
        for (pattern, hint) in [
            ("a{0..1", "without its `}`"),
            ("a}0..1{", "without its `{`"),
            ("{abc}", "neither a range"),
            ("{}", "neither a range"),
            ("{1..2..0}", "step of 0"),
            ("{0..99999999999}", "at most"),
            ("{0..9999}{0..9999}", "more than"),
            (&"{a,b}".repeat(60), "more than"),
            (&"{a,".repeat(100), "braces"),
        ] {
            let problem = expand(pattern).expect_err(pattern);
            assert!(problem.contains(hint), "{pattern}: {problem}");
        }
    }

    #[test]
    fn names_say_their_split_by_whole_words() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = names(&["imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar", "imagenet1k-validation-00.tar"]);
        assert_eq!(of_split(all.clone(), Split::Train).expect("train"), all[..2]);
        assert_eq!(of_split(all.clone(), Split::Val).expect("val"), all[2..]);
        let alike = names(&["constrained-0.tar", "trainval-1.tar", "test-2.tar"]);
        assert_eq!(of_split(alike[..2].to_vec(), Split::Val).expect("no split is named"), alike[..2]);
        assert_eq!(of_split(names(&["test0.tar"]), Split::Train).expect("a lone test"), ["test0.tar"]);
        assert!(
            of_split(names(&["train0.tar", "more.tar"]), Split::Train).expect_err("one is silent").contains("more")
        );
        assert!(of_split(names(&["train0.tar"]), Split::Val).expect_err("no val").contains("val, validation"));
        let both = names(&["test-0.tar", "train-0.tar", "val-0.tar"]);
        assert_eq!(of_split(both, Split::Val).expect("val before test"), ["val-0.tar"]);
    }
}
