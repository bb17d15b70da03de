//! The rules of the code base that a machine can hold.
//!
//! Each rule is a function from the files of the repository to problems, one line each: `path:line: what, and what to do`.

mod edges;
mod rules;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file of the repository.
struct File {
    /// From the root, with `/`.
    path: String,
    bytes: u64,
    /// Its text, for the kinds of files that rules read; else empty.
    text: String,
}

/// Checks all rules; an error lists every problem.
pub(crate) fn run() -> Result<()> {
    let problems = problems()?;
    if !problems.is_empty() {
        bail!("{} problems\n{}", problems.len(), problems.join("\n"));
    }
    println!("tidy: no problems");
    Ok(())
}

fn problems() -> Result<Vec<String>> {
    let files = files()?;
    let mut problems = edges::problems()?;
    for file in &files {
        problems.extend(rules::problems(file));
    }
    Ok(problems)
}

/// What git tracks or would track.
fn files() -> Result<Vec<File>> {
    let root = crate::root();
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .context("git lists the files of the repository; it cannot be started")?;
    if !output.status.success() {
        bail!("`git ls-files` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8(output.stdout).context("paths are UTF-8")?;
    let mut files = Vec::new();
    for name in names.split_terminator('\0') {
        let path: PathBuf = root.join(name);
        // A file that was deleted but is not committed yet.
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        let read = [".rs", ".yaml", ".toml", ".md"].iter().any(|ending| name.ends_with(ending));
        let text = if read {
            std::fs::read_to_string(&path).with_context(|| format!("{name} cannot be read"))?
        } else {
            String::new()
        };
        files.push(File { path: name.to_owned(), bytes: meta.len(), text });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_code_base_keeps_its_rules() {
        assert_eq!(super::problems().expect("the files can be read"), Vec::<String>::new());
    }
}
