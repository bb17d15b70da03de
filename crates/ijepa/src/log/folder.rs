//! Where does a run live, and may this run write there?

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::config::Config;
use crate::exit::{Exit, Failure};

/// The resolved configuration's name in the run folder, as in the reference.
pub(crate) const PARAMS: &str = "params-ijepa.yaml";

/// Refuses a folder that holds a run already, unless `go_on`, and one that cannot be written as far as can be seen without writing.
pub(crate) fn check(folder: &Path, go_on: bool) -> Result<()> {
    if folder.join(PARAMS).exists() && !go_on {
        return Err(Failure::usage(format!("{} holds a run already", folder.display()))
            .remedy("go on with it (--resume), or name another folder (--out)")
            .into());
    }
    // The part of the path that is there already; for a new relative one, the last ancestor is empty and means here.
    let checkpoints = checkpoints(folder);
    let there = checkpoints.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let metadata = std::fs::metadata(there).map_err(|error| unwritable(folder, error))?;
    match () {
        () if !metadata.is_dir() => Err(unwritable(folder, ErrorKind::NotADirectory.into()).into()),
        () if metadata.permissions().readonly() => Err(unwritable(folder, ErrorKind::PermissionDenied.into()).into()),
        () => Ok(()),
    }
}

/// Makes `folder` and its `checkpoints/`, and writes the configuration. A folder that [`check`] refuses is left as it is.
pub(crate) fn prepare(folder: &Path, config: &Config, go_on: bool) -> Result<()> {
    check(folder, go_on)?;
    let params = folder.join(PARAMS);
    let checkpoints = checkpoints(folder);
    std::fs::create_dir_all(&checkpoints).map_err(|error| unwritable(&checkpoints, error))?;
    // Whole or not at all: a reader never sees half a configuration.
    let scratch = folder.join(format!("{PARAMS}.tmp"));
    std::fs::write(&scratch, config.to_yaml()).map_err(|error| unwritable(&scratch, error))?;
    std::fs::rename(&scratch, &params).map_err(|error| unwritable(&params, error))?;
    Ok(())
}

fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file stands where a folder is needed; name another with --out"
        }
        ErrorKind::StorageFull => "free some space, or name a folder on another disk with --out",
        _ => "name a folder that you may write to with --out",
    };
    Failure::new(Exit::Failed, format!("cannot write the run folder: {}", path.display())).because(error).remedy(remedy)
}

/// The folder of a run's checkpoints.
pub(crate) fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("checkpoints")
}

/// The newest checkpoint of a run.
pub(crate) fn latest(folder: &Path) -> PathBuf {
    checkpoints(folder).join("latest.safetensors")
}

/// The newest checkpoint of a run of the reference, whose files begin with `tag`.
pub(crate) fn reference_latest(folder: &Path, tag: &str) -> PathBuf {
    folder.join(format!("{tag}-latest.pth.tar"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_fresh_run_gets_a_folder_with_its_configuration() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let folder = dir.path().join("a/b");
        prepare(&folder, &Config::default(), false).expect("it can be written");
        assert!(checkpoints(&folder).is_dir());
        let text = std::fs::read_to_string(folder.join(PARAMS)).expect("it was written");
        assert_eq!(config::parse(&text, PARAMS).expect("it reads back").0, Config::default());
    }

    #[test]
    fn a_folder_with_a_run_is_kept_unless_the_run_goes_on() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        prepare(dir.path(), &Config::default(), false).expect("it is empty");
        let before = std::fs::read(dir.path().join(PARAMS)).expect("it was written");
        let mut other = Config::default();
        other.meta.seed = 9;
        let error = prepare(dir.path(), &other, false).expect_err("a run is there");
        assert_eq!(crate::exit::code(&error), Exit::Usage);
        assert_eq!(std::fs::read(dir.path().join(PARAMS)).expect("it is still there"), before);
        prepare(dir.path(), &other, true).expect("the run goes on");
    }

    #[test]
    fn a_folder_that_cannot_be_made_says_so() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("it can be written");
        let error = prepare(&file.join("run"), &Config::default(), false).expect_err("a file is in the way");
        assert_eq!(crate::exit::code(&error), Exit::Failed);
        assert!(error.to_string().contains("cannot write the run folder"), "{error}");
    }
}
