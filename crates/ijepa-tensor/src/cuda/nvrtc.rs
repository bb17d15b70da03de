//! How does the text of a kernel become code for a card? By NVIDIA's run-time compiler, a library that is opened when it is
//! needed: a build needs no toolkit, and a machine without the library computes on the CPU.

use super::{HEADERS, Source, library};
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;

/// Names under which the library is looked for, unless the variable `IJEPA_NVRTC` holds its path.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll"];

/// Why there is no code.
#[derive(Clone, Debug)]
pub enum Error {
    /// The library cannot be opened.
    Absent {
        /// Every name that was tried, and what the system said.
        tried: Vec<String>,
    },
    /// The library lacks a function.
    Function {
        /// Its name.
        name: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The text does not compile.
    Compile {
        /// Name of the file of kernels.
        source: &'static str,
        /// What it was compiled for.
        target: String,
        /// What the compiler said.
        log: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Absent { tried } => write!(
                f,
                "NVRTC was not found: {}; `pip install nvidia-cuda-nvrtc==13.0.88` brings it, and IJEPA_NVRTC may name the file",
                tried.join("; ")
            ),
            Error::Function { name, reason } => {
                write!(f, "NVRTC lacks {name} ({reason}); version 12 or 13 is expected")
            }
            Error::Compile { source, target, log } => write!(f, "{source}.cu does not compile for {target}:\n{log}"),
        }
    }
}

impl std::error::Error for Error {}

/// Code of one file of kernels.
#[derive(Clone, Debug)]
pub struct Code {
    /// A cubin for a target such as `sm_90`, PTX for one such as `compute_80`.
    pub bytes: Vec<u8>,
    /// What the compilers said: registers, shared memory and spills of every kernel, for a cubin.
    pub log: String,
}

/// The opened library.
pub struct Nvrtc {
    library: Library,
    /// What the library opens by name while it compiles: found there, where its folder is not among those that are searched.
    _beside: Vec<Library>,
}

type Program = *mut c_void;

impl Nvrtc {
    /// Opens the library.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn open() -> Result<Nvrtc, Error> {
        let make = |library, name: &OsStr| Ok(Nvrtc { library, _beside: libraries_beside(Path::new(name)) });
        // SAFETY: it is NVIDIA's.
        let found = unsafe { library::first("IJEPA_NVRTC", &NAMES, &library::folders(), make) };
        found.unwrap_or_else(|tried| Err(Error::Absent { tried }))
    }

    /// Version of the library, such as (13, 0).
    ///
    /// # Errors
    /// When the library is not what its name says.
    pub fn version(&self) -> Result<(i32, i32), Error> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is that of nvrtc.h; both pointers are valid for the call.
        unsafe {
            let version: Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                self.function("nvrtcVersion")?;
            version(&raw mut major, &raw mut minor);
        }
        Ok((major, minor))
    }

    /// # Safety
    /// `T` is the function's signature in nvrtc.h.
    unsafe fn function<T>(&self, name: &'static str) -> Result<Symbol<'_, T>, Error> {
        // SAFETY: the caller's.
        let found = unsafe { self.library.get(name) };
        found.map_err(|error| Error::Function { name, reason: library::words(&error) })
    }

    /// Compiles a file of kernels for `target`, such as `sm_90` or `compute_80`.
    ///
    /// # Errors
    /// When the text does not compile, with the compiler's log.
    pub fn compile(&self, source: Source, target: &str) -> Result<Code, Error> {
        let text = |text: &str| CString::new(text).expect("texts of kernels hold no zero byte");
        let (main, name) = (text(source.text), text(&format!("{}.cu", source.name)));
        let headers = HEADERS.map(|(_, header)| text(header));
        let names = HEADERS.map(|(name, _)| text(name));
        let options = [format!("--gpu-architecture={target}"), "--std=c++17".into(), "--ptxas-options=-v".into()];
        let options = options.map(|option| text(&option));
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
        let (headers, names, options) = (pointers(&headers), pointers(&names), pointers(&options));
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the signatures are those of nvrtc.h. Every pointer is to a text or a list that outlives its call; the program
        // is destroyed once, and not used afterwards.
        unsafe {
            let create: Symbol<CreateProgram> = self.function("nvrtcCreateProgram")?;
            let compile: Symbol<CompileProgram> = self.function("nvrtcCompileProgram")?;
            let destroy: Symbol<unsafe extern "C" fn(*mut Program) -> c_int> = self.function("nvrtcDestroyProgram")?;
            let result = create(
                &raw mut program,
                main.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as c_int,
                headers.as_ptr(),
                names.as_ptr(),
            );
            assert_eq!(result, 0, "NVRTC takes any text");
            let result = compile(program, options.len() as c_int, options.as_ptr());
            let log = self.output(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
            let code = match target.starts_with("sm_") {
                _ if result != 0 => Ok(Vec::new()),
                true => self.output(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
                false => self.output(program, "nvrtcGetPTXSize", "nvrtcGetPTX"),
            };
            destroy(&raw mut program);
            let log = log.map(|log| as_text(&log))?;
            match result {
                0 => Ok(Code { bytes: code?, log }),
                _ => Err(Error::Compile { source: source.name, target: target.to_owned(), log }),
            }
        }
    }

    /// What a pair of functions, for the size and for the bytes, says of a program.
    ///
    /// # Safety
    /// The program is alive, and the names are those of such a pair.
    unsafe fn output(&self, program: Program, size: &'static str, get: &'static str) -> Result<Vec<u8>, Error> {
        // SAFETY: the signatures are those of nvrtc.h; the buffer has the size that was asked for.
        unsafe {
            let size: Symbol<unsafe extern "C" fn(Program, *mut usize) -> c_int> = self.function(size)?;
            let get: Symbol<unsafe extern "C" fn(Program, *mut c_char) -> c_int> = self.function(get)?;
            let mut len = 0;
            size(program, &raw mut len);
            let mut bytes = vec![0; len];
            get(program, bytes.as_mut_ptr().cast());
            Ok(bytes)
        }
    }
}

type CreateProgram = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type CompileProgram = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;

/// NVRTC's own headers, which lie beside it in a library.
fn libraries_beside(library: &Path) -> Vec<Library> {
    let Some(folder) = library.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Vec::new() };
    let names = folder.read_dir().into_iter().flatten().flatten();
    let builtins = names.filter(|file| file.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so"));
    // SAFETY: the library holds data and has no initialisers of its own.
    builtins.filter_map(|file| unsafe { Library::new(file.path()) }.ok()).collect()
}

fn as_text(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).unwrap_or_default();
    text.to_string_lossy().into_owned()
}
