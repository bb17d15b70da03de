//! How is NCCL called, over which GPUs of several processes work together? It is a library that is opened when it is needed: a build
//! needs nothing of it, and neither does a process that is alone. What is done with it is in `communicator.rs`.

use super::driver;
use super::library::{self, functions};
use libloading::Library;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Names under which the library is looked for, unless the variable `IJEPA_NCCL_LIB` holds its path.
const NAMES: [&str; 1] = ["libnccl.so.2"];
/// The oldest version that is used: the first one for CUDA 12.
const OLDEST: (i32, i32, i32) = (2, 16, 2);

/// Why GPUs do not work together.
#[derive(Clone, Debug)]
pub enum Error {
    /// The library cannot be opened.
    Absent {
        /// Every name that was tried, and what the system said.
        tried: Vec<String>,
    },
    /// The library lacks a function.
    Function {
        /// Name or path of the library.
        library: String,
        /// Name of the function.
        name: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The library is too old.
    Version {
        /// Name or path of the library.
        library: String,
        /// Its version.
        version: (i32, i32, i32),
    },
    /// A call failed, or what it started.
    Call {
        /// What was called.
        call: &'static str,
        /// NCCL's number of the error.
        code: i32,
        /// NCCL's words.
        reason: String,
    },
    /// The other ranks did not do their part.
    Waited {
        /// What was waited for.
        call: &'static str,
        /// The rank that waited.
        rank: usize,
        /// How many there are.
        size: usize,
        /// For how long.
        waited: Duration,
    },
    /// An earlier call failed.
    Ended {
        /// What was called now.
        call: &'static str,
    },
    /// The GPU failed.
    Gpu(driver::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (major, minor, patch) = OLDEST;
        match self {
            Error::Absent { tried } => write!(
                f,
                "no NCCL that will do, over which several GPUs train together, was found: {}; version {major}.{minor}.{patch} or later is expected: \
                 install libnccl2, or `pip install nvidia-nccl-cu13` (or -cu12) for the python3 on PATH; IJEPA_NCCL_LIB may name the file",
                tried.join("; ")
            ),
            Error::Function { library, name, reason } => write!(
                f,
                "{library} lacks {name} ({reason}): NCCL {major}.{minor}.{patch} or later is expected; install it, or name another file in IJEPA_NCCL_LIB"
            ),
            Error::Version { library, version } => write!(
                f,
                "{library} is NCCL {}.{}.{}: {major}.{minor}.{patch} or later is expected; install it, or name another file in IJEPA_NCCL_LIB",
                version.0, version.1, version.2
            ),
            Error::Call { call, code, reason } => {
                write!(f, "{call} failed with {code}: {reason}; NCCL_DEBUG=INFO says more")
            }
            Error::Waited { call, rank, size, waited } => write!(
                f,
                "rank {rank} of {size} has waited {:.1} s for the others in {call}: one hangs, is lost, or cannot be reached; its own output may say why",
                waited.as_secs_f64()
            ),
            Error::Ended { call } => write!(f, "{call}: the ranks have lost each other before"),
            Error::Gpu(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<driver::Error> for Error {
    fn from(error: driver::Error) -> Error {
        Error::Gpu(error)
    }
}

/// What the first rank makes and all others are told: how they find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Id(pub [u8; 128]);

/// What NCCL and the driver give names to, and addresses on the device.
pub(super) type Handle = *mut c_void;

// Signatures of nccl.h.
functions! {
    ncclGetErrorString(c_int) -> *const c_char;
    ncclGetLastError(Handle) -> *const c_char;
    ncclGetVersion(*mut c_int);
    ncclGetUniqueId(*mut Id);
    ncclCommInitRank(*mut Handle, c_int, Id, c_int);
    ncclCommDestroy(Handle);
    ncclCommAbort(Handle);
    ncclCommGetAsyncError(Handle, *mut c_int);
    ncclGroupStart();
    ncclGroupEnd();
    ncclReduceScatter(Handle, Handle, usize, c_int, c_int, Handle, Handle);
    ncclReduce(Handle, Handle, usize, c_int, c_int, c_int, Handle, Handle);
    ncclAllGather(Handle, Handle, usize, c_int, Handle, Handle);
    ncclBroadcast(Handle, Handle, usize, c_int, c_int, Handle, Handle);
    ncclSend(Handle, usize, c_int, c_int, Handle, Handle);
    ncclRecv(Handle, usize, c_int, c_int, Handle, Handle);
}

/// `ncclFloat32` and `ncclFloat64`.
pub(super) const FLOAT32: c_int = 7;
pub(super) const FLOAT64: c_int = 8;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;
/// `ncclInProgress`: a call that `NCCL_COMM_BLOCKING=0` lets return before it is done.
pub(super) const IN_PROGRESS: c_int = 7;

/// The opened library.
pub struct Nccl {
    pub(super) functions: Functions,
    version: (i32, i32, i32),
    /// Never closed: it has threads of its own.
    _library: ManuallyDrop<Library>,
}

impl Nccl {
    /// Opens the library: the file that `IJEPA_NCCL_LIB` names, or else the first of its usual names that there is.
    ///
    /// # Errors
    /// When it is nowhere, too old, or not what its name says.
    pub fn open() -> Result<Rc<Nccl>, Error> {
        let make = |library, name: &OsStr| Nccl::of(library, &name.to_string_lossy());
        // SAFETY: it is NVIDIA's.
        let found = unsafe { library::first("IJEPA_NCCL_LIB", &NAMES, &library::folders(), make) };
        found.unwrap_or_else(|tried| Err(Error::Absent { tried }))
    }

    /// Opens a library that has NCCL's functions.
    ///
    /// # Errors
    /// When it lacks one.
    ///
    /// # Safety
    /// Its functions do what NCCL's do.
    pub unsafe fn open_at(path: &Path) -> Result<Rc<Nccl>, Error> {
        let name = path.display().to_string();
        // SAFETY: the caller's.
        let library = unsafe { library::open(path.as_os_str()) };
        Nccl::of(library.map_err(|said| Error::Absent { tried: vec![said] })?, &name)
    }

    fn of(library: Library, path: &str) -> Result<Rc<Nccl>, Error> {
        let missing = |name, reason| Error::Function { library: path.to_owned(), name, reason };
        // SAFETY: the signatures are those of nccl.h.
        let functions = unsafe { Functions::of(&library, missing) }?;
        let mut code = 0;
        // SAFETY: the pointer is valid for the call.
        unsafe { (functions.ncclGetVersion)(&raw mut code) };
        // Versions before 2.9 had three digits for what follows the major one.
        let major = if code < 10_000 { 1000 } else { 10_000 };
        let version = (code / major, code % major / 100, code % 100);
        if version < OLDEST {
            return Err(Error::Version { library: path.to_owned(), version });
        }
        Ok(Rc::new(Nccl { functions, version, _library: ManuallyDrop::new(library) }))
    }

    /// Version of the library, such as (2, 27, 3).
    pub fn version(&self) -> (i32, i32, i32) {
        self.version
    }

    /// What the first rank hands to all others, once for each [`Communicator`](super::communicator::Communicator).
    ///
    /// # Errors
    /// When NCCL finds no network to listen on.
    pub fn id(&self) -> Result<Id, Error> {
        let mut id = Id([0; 128]);
        // SAFETY: the pointer is valid for the call.
        self.check("ncclGetUniqueId", unsafe { (self.functions.ncclGetUniqueId)(&raw mut id) })?;
        Ok(id)
    }

    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        if code == 0 || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: both functions return null or a text that lives as long as the library; the last error takes no communicator.
        let (what, last) = unsafe {
            (
                text((self.functions.ncclGetErrorString)(code)),
                text((self.functions.ncclGetLastError)(std::ptr::null_mut())),
            )
        };
        let reason = if last.is_empty() { what } else { format!("{what} ({last})") };
        Err(Error::Call { call, code, reason })
    }
}

/// # Safety
/// It is null, or ends in a zero byte and lives through the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}
