//! How is a library of NVIDIA's found and opened, and what is said when it cannot be?

use libloading::Library;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The first library that will do: the one that a variable of the environment names; or else one of the usual names, as the system finds it, and
/// then in `folders`. One that is there and will not do is passed over, unless it was named.
///
/// # Errors
/// What was tried, and what the system or the library said.
///
/// # Safety
/// A library of such a name is NVIDIA's: its initialisers have no conditions.
pub(super) unsafe fn first<T, E: Display>(
    variable: &str,
    usual: &[&str],
    folders: &[PathBuf],
    make: impl Fn(Library, &OsStr) -> Result<T, E>,
) -> Result<Result<T, E>, Vec<String>> {
    // SAFETY: the caller's.
    let open = |name: &OsStr| unsafe { open(name) };
    if let Some(name) = std::env::var_os(variable).filter(|name| !name.is_empty()) {
        return open(&name).map(|library| make(library, &name)).map_err(|said| vec![said]);
    }
    let mut tried = Vec::new();
    let files = files(usual, folders);
    let found = files.len();
    for name in usual.iter().map(OsString::from).chain(files) {
        match open(&name).map(|library| make(library, &name)) {
            Ok(Ok(made)) => return Ok(Ok(made)),
            Ok(Err(error)) => tried.push(format!("{}: {error}", name.display())),
            Err(said) => tried.push(said),
        }
    }
    if found == 0 && !folders.is_empty() {
        let folders = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        tried.push(format!("nothing of these names in {folders}"));
    }
    Err(tried)
}

/// Those of these names that there are, folder by folder.
fn files(names: &[&str], folders: &[PathBuf]) -> Vec<OsString> {
    let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    files.filter(|file| file.exists()).map(PathBuf::into_os_string).collect()
}

/// Where NVIDIA's libraries lie if the system does not look there.
pub(super) fn folders() -> Vec<PathBuf> {
    folders_of(|name| std::env::var_os(name))
}

/// Folders of a toolkit, of a conda environment, and of packages of the Python in use, such as there are.
fn folders_of(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let named = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let path = variable("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute() && folder.join("python3").exists())
        .filter_map(|folder| folder.parent().map(Path::to_path_buf))
        .collect();
    let in_use = on_path.iter().find_map(|prefix| python_of(prefix));

    let toolkits = [named("CUDA_HOME"), named("CUDA_PATH"), Some("/usr/local/cuda".into())];
    let mut folders: Vec<PathBuf> = toolkits.into_iter().flatten().map(|toolkit| toolkit.join("lib64")).collect();
    folders.extend(named("CONDA_PREFIX").map(|prefix| prefix.join("lib")));
    let environments = [named("VIRTUAL_ENV"), named("CONDA_PREFIX")].into_iter().flatten();
    let of_user = [named("HOME").map(|home| home.join(".local")), Some("/usr/local".into())].into_iter().flatten();
    for prefix in environments.chain(on_path).chain(of_user) {
        let python = python_of(&prefix).or_else(|| in_use.clone());
        folders.extend(libraries_of(&prefix, python.as_deref()));
    }
    let mut seen = Vec::new();
    folders.retain(|folder| match folder.canonicalize() {
        Ok(real) if !seen.contains(&real) => {
            seen.push(real);
            true
        }
        _ => false,
    });
    folders
}

/// The folders of libraries of NVIDIA's packages that an installation has for a Python, as pip, Debian and Fedora lay them out.
fn libraries_of(prefix: &Path, python: Option<&str>) -> Vec<PathBuf> {
    let pythons = python.into_iter().chain(["python3"]);
    let places = [("lib", "site-packages"), ("lib", "dist-packages"), ("lib64", "site-packages")];
    let nvidia = pythons
        .flat_map(|python| places.map(|(lib, packages)| prefix.join(lib).join(python).join(packages).join("nvidia")));
    nvidia.flat_map(|packages| libraries_in(&packages)).collect()
}

/// What the Python of an installation calls its folder: `python3.12`.
fn python_of(prefix: &Path) -> Option<String> {
    let program = prefix.join("bin/python3").canonicalize().ok()?;
    let name = program.file_name()?.to_str()?;
    name.starts_with("python3.").then(|| name.to_owned())
}

/// The folders of libraries of NVIDIA's packages, in the order of their names.
fn libraries_in(packages: &Path) -> Vec<PathBuf> {
    let entries = packages.read_dir().into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path().join("lib")).collect();
    folders.sort();
    folders
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_python_in_use_come_before_those_of_others_and_folder_by_folder() {
        let root = std::env::temp_dir().join(format!("ijepa-library-{}", std::process::id()));
        let make = |path: &str| std::fs::create_dir_all(root.join(path)).expect("a scratch folder");
        let write = |path: &str| std::fs::write(root.join(path), "").expect("a scratch file");
        let (own, other) = ("env/lib/python3.9/site-packages/nvidia", "env/lib/python3.12/site-packages/nvidia");
        let user = "home/.local/lib/python3.9/site-packages/nvidia";
        [own, other, user].iter().for_each(|packages| make(&format!("{packages}/cublas/lib")));
        ["env/bin", "toolkit/lib64", "relative/bin"].iter().for_each(|path| make(path));
        write("env/bin/python3.9");
        std::os::unix::fs::symlink("python3.9", root.join("env/bin/python3")).expect("a scratch link");
        write(&format!("{own}/cublas/lib/libx.so.12"));
        write(&format!("{user}/cublas/lib/libx.so.13"));

        let value = |name: &str| match name {
            "PATH" => Some(format!("relative/bin:{0}/env/bin:{0}/env/bin", root.display()).into()),
            "VIRTUAL_ENV" => Some(root.join("env").into_os_string()),
            "HOME" => Some(root.join("home").into_os_string()),
            "CUDA_HOME" => Some(root.join("toolkit").into_os_string()),
            _ => None,
        };
        let found = folders_of(value);
        let ours: Vec<&PathBuf> = found.iter().filter(|folder| folder.starts_with(&root)).collect();
        let [own, user] = [own, user].map(|packages| root.join(packages).join("cublas/lib"));
        assert_eq!(ours, [&root.join("toolkit/lib64"), &own, &user]);
        let files = files(&["libx.so.13", "libx.so.12"], &found);
        assert_eq!(files, [own.join("libx.so.12"), user.join("libx.so.13")]);
        std::fs::remove_dir_all(&root).expect("the scratch folder goes");
    }
}
