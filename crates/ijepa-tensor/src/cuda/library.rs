//! How is a library of NVIDIA's opened, and what is said when it cannot be?

use libloading::Library;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Names to try: what a variable of the environment holds; or else the usual ones, as the system finds them, and then the files of these names
/// in [`folders`].
pub(super) fn names(variable: &str, usual: &[&str]) -> Vec<OsString> {
    if let Some(name) = std::env::var_os(variable) {
        return vec![name];
    }
    let folders = folders(|name| std::env::var_os(name));
    let files = usual.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    usual.iter().map(OsString::from).chain(files.filter(|file| file.exists()).map(PathBuf::into_os_string)).collect()
}

/// Where NVIDIA's libraries lie if the system does not look there: in a toolkit's folder, and among the packages of the Python that is in use.
fn folders(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let named = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(named).chain([PathBuf::from("/usr/local/cuda")]);
    let mut folders: Vec<PathBuf> = toolkits.map(|toolkit| toolkit.join("lib64")).collect();
    let path = variable("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&path).filter(|folder| folder.join("python3").exists());
    let prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(named);
    let prefixes = prefixes.chain(pythons.filter_map(|folder| folder.parent().map(Path::to_path_buf)));
    let prefixes = prefixes.chain(named("HOME").map(|home| home.join(".local"))).chain([PathBuf::from("/usr/local")]);
    for python in prefixes.flat_map(|prefix| inside(&prefix.join("lib"), "python3")) {
        for packages in ["site-packages", "dist-packages"] {
            folders.extend(
                inside(&python.join(packages).join("nvidia"), "").into_iter().map(|package| package.join("lib")),
            );
        }
    }
    folders
}

/// What a folder holds under names that begin like this, in their order; nothing where there is no such folder.
fn inside(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Opens a library.
///
/// # Errors
/// Its name, and what the system said.
///
/// # Safety
/// Its initialisers have no conditions, which holds for NVIDIA's.
pub(super) unsafe fn open(name: &OsStr) -> Result<Library, String> {
    // SAFETY: the caller's.
    unsafe { Library::new(name) }.map_err(|error| {
        let (name, words) = (name.display().to_string(), words(&error));
        // Not all systems say the name.
        if words.starts_with(&name) { words } else { format!("{name}: {words}") }
    })
}

/// What the system said: the error's cause, where it has one.
pub(super) fn words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// A struct `Functions` of a library's functions with the signatures of its header. They return an int where nothing else is said.
macro_rules! functions {
    ($($name:ident($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        #[allow(non_snake_case)]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $crate::cuda::library::result!($($result)?),)*
        }

        impl Functions {
            /// All of them, or what is `missing`: its name, and what the system said.
            ///
            /// # Safety
            /// The signatures are those of the library.
            unsafe fn of<E>(library: &Library, missing: impl Fn(&'static str, String) -> E) -> Result<Functions, E> {
                Ok(Functions {
                    $($name: {
                        let name = stringify!($name);
                        // SAFETY: the caller's.
                        let found = unsafe { library.get(name) };
                        *found.map_err(|error| missing(name, $crate::cuda::library::words(&error)))?
                    },)*
                })
            }
        }
    };
}

macro_rules! result {
    () => {
        std::ffi::c_int
    };
    ($result:ty) => {
        $result
    };
}

pub(super) use {functions, result};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_python_in_use_and_toolkits_are_looked_through() {
        let root = std::env::temp_dir().join(format!("ijepa-library-{}", std::process::id()));
        let packages = root.join("env/lib/python3.12/site-packages/nvidia");
        for folder in ["cu13/lib", "nccl/lib"] {
            std::fs::create_dir_all(packages.join(folder)).expect("a scratch folder");
        }
        std::fs::create_dir_all(root.join("env/bin")).expect("a scratch folder");
        std::fs::write(root.join("env/bin/python3"), "").expect("a scratch file");
        let text = |path: &Path| Some(path.as_os_str().to_owned());
        for (name, value) in [("PATH", root.join("env/bin")), ("VIRTUAL_ENV", root.join("env"))] {
            let found = folders(|asked| if asked == name { text(&value) } else { None });
            let expected = [packages.join("cu13/lib"), packages.join("nccl/lib")];
            assert!(expected.iter().all(|folder| found.contains(folder)), "{name}: {found:?}");
        }
        let found = folders(|asked| if asked == "CUDA_HOME" { text(&root) } else { None });
        assert_eq!(found[..2], [root.join("lib64"), PathBuf::from("/usr/local/cuda/lib64")]);
        std::fs::remove_dir_all(&root).expect("the scratch folder goes");
    }
}
