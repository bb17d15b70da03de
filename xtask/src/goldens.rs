//! Are the files that other programs made still those? `goldens/README.md` says how they were made; `goldens/SHA256SUMS` (the format of
//! `sha256sum`) holds their checksums.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Prints how the goldens were made and checks them.
pub(crate) fn run() -> Result<()> {
    let folder = crate::root().join("goldens");
    let readme = std::fs::read_to_string(folder.join("README.md")).context("goldens/README.md cannot be read")?;
    println!("{readme}");
    let problems = problems(&folder)?;
    if !problems.is_empty() {
        bail!(
            "{}\nput back what was changed, or state the new file in goldens/README.md and its checksum in goldens/SHA256SUMS",
            problems.join("\n")
        );
    }
    println!("all files are as listed in goldens/SHA256SUMS");
    Ok(())
}

/// One line a file that is changed, missing, or not listed.
pub(crate) fn problems(folder: &Path) -> Result<Vec<String>> {
    let list = folder.join("SHA256SUMS");
    let listed = std::fs::read_to_string(&list).with_context(|| format!("{} cannot be read", list.display()))?;
    let listed: BTreeMap<&str, &str> =
        listed.lines().filter_map(|line| line.split_once("  ").map(|(sum, name)| (name, sum))).collect();
    let mut found = BTreeMap::new();
    sums(folder, folder, &mut found)?;

    let mut problems = Vec::new();
    for (name, sum) in &found {
        match listed.get(name.as_str()) {
            None => problems.push(format!("goldens/{name} is not in SHA256SUMS: {sum}  {name}")),
            Some(expected) if expected != sum => {
                problems.push(format!("goldens/{name} has changed: expected {expected}, got {sum}"))
            }
            Some(_) => {}
        }
    }
    problems.extend(
        listed.keys().filter(|name| !found.contains_key(**name)).map(|name| format!("goldens/{name} is missing")),
    );
    Ok(problems)
}

/// Checksums of all files under `folder`, less the two that describe them, by their path from `top`.
fn sums(top: &Path, folder: &Path, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sums(top, &path, found)?;
            continue;
        }
        let name = path.strip_prefix(top).expect("it lies under the top").to_string_lossy().replace('\\', "/");
        if name == "README.md" || name == "SHA256SUMS" {
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let sum = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(name, sum);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goldens_are_the_ones_that_were_made() {
        assert_eq!(problems(&crate::root().join("goldens")).expect("the goldens can be read"), Vec::<String>::new());
    }
}
