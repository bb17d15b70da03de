//! How is a library of NVIDIA's opened, and what is said when it cannot be?

use libloading::Library;
use std::error::Error;
use std::ffi::{OsStr, OsString};

/// Names to try: what a variable of the environment holds, or else the usual ones.
pub(super) fn names(variable: &str, usual: &[&str]) -> Vec<OsString> {
    match std::env::var_os(variable) {
        Some(name) => vec![name],
        None => usual.iter().map(Into::into).collect(),
    }
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
