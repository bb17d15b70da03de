//! How does a process use a GPU? Through the driver's own library, which is opened when it is needed and is on every machine
//! with a driver; a build needs nothing of it.
//!
//! One thread has a [`Gpu`] and all that was made on it. What is asked for here runs on one stream, in the order in which it was asked for.

use super::launch::{Launch, Pointer};
use super::library::{self, functions};
use super::stream::{AHEAD, Context, Event, Stream, USUAL};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Names under which the library is looked for, without a path in the variable `IJEPA_CUDA_DRIVER`.
const NAMES: [&str; 2] = ["libcuda.so.1", "nvcuda.dll"];

/// Shared memory that a kernel may have: more than it has without asking (48 kB), less than any card from sm_80 on has for a block.
const SHARED_BYTES: u32 = 56 << 10;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MOST_SHARED: c_int = 8;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: i32 = 2;
/// `CUDA_ERROR_NOT_FOUND`.
const NOT_FOUND: i32 = 500;
/// `CUDA_ERROR_INVALID_IMAGE`, `NO_BINARY_FOR_GPU`, `INVALID_PTX`, `UNSUPPORTED_PTX_VERSION`.
const REFUSED: [i32; 4] = [200, 209, 218, 222];

/// Why a GPU does not do what it was asked.
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
    /// There is no such GPU.
    Device {
        /// The number that was asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// A kernel is not in the code that was loaded.
    Kernel {
        /// Its name.
        name: String,
    },
    /// A call failed.
    Call {
        /// What was called.
        call: &'static str,
        /// The driver's number of the error.
        code: i32,
        /// The driver's words.
        reason: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Absent { tried } => {
                write!(f, "there is no NVIDIA driver: {}; install one, or compute with --device cpu", tried.join("; "))
            }
            Error::Function { name, reason } => {
                write!(f, "the NVIDIA driver lacks {name} ({reason}): expected version 530 or later, install it")
            }
            Error::Device { number, count } => {
                write!(
                    f,
                    "GPU {number}: the driver shows {count}, counted from 0; CUDA_VISIBLE_DEVICES may hide others"
                )
            }
            Error::Kernel { name } => write!(f, "the loaded code has no kernel {name}"),
            Error::Call { call, code, reason } => write!(f, "{call} failed with {code}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether the GPU has too little memory.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self, Error::Call { call: "cuMemAlloc", code: OUT_OF_MEMORY, .. })
    }

    /// Whether the driver, or the GPU, takes no such code.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Error::Call { code, .. } if REFUSED.contains(code))
    }
}

pub(super) type Handle = *mut c_void;

// Signatures of cuda.h. Names with a version are those that its macros stand for.
functions! {
    cuInit(c_uint);
    cuGetErrorString(c_int, *mut *const c_char);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDeviceTotalMem_v2(*mut usize, c_int);
    cuDevicePrimaryCtxSetFlags_v2(c_int, c_uint);
    cuDevicePrimaryCtxRetain(*mut Handle, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxSetCurrent(Handle);
    cuStreamCreateWithPriority(*mut Handle, c_uint, c_int);
    cuStreamSynchronize(Handle);
    cuStreamQuery(Handle);
    cuStreamWaitEvent(Handle, Handle, c_uint);
    cuStreamDestroy_v2(Handle);
    cuEventCreate(*mut Handle, c_uint);
    cuEventRecord(Handle, Handle);
    cuEventSynchronize(Handle);
    cuEventDestroy_v2(Handle);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemAllocHost_v2(*mut Handle, usize);
    cuMemFreeHost(Handle);
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, Handle);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, Handle);
    cuMemcpyDtoDAsync_v2(u64, u64, usize, Handle);
    cuModuleLoadData(*mut Handle, *const c_void);
    cuModuleUnload(Handle);
    cuModuleGetFunction(*mut Handle, Handle, *const c_char);
    cuFuncSetAttribute(Handle, c_int, c_int);
    cuLaunchKernel(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
}

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

/// The driver.
pub struct Driver {
    pub(super) functions: Functions,
    /// Never closed: it has threads of its own.
    _library: ManuallyDrop<Library>,
}

impl Driver {
    /// Opens the driver of this machine.
    ///
    /// # Errors
    /// When there is none, or it does not start.
    pub fn open() -> Result<Rc<Driver>, Error> {
        // SAFETY: it is NVIDIA's. It comes with the system; elsewhere are libraries that only name its functions.
        let found = unsafe { library::first("IJEPA_CUDA_DRIVER", &NAMES, &[], |library, _| Ok(library)) };
        match found {
            Ok(library) => library.and_then(Driver::of),
            Err(tried) => Err(Error::Absent { tried }),
        }
    }

    /// Opens a library that has the driver's functions.
    ///
    /// # Errors
    /// When it lacks one.
    ///
    /// # Safety
    /// Its functions do what the driver's do.
    pub unsafe fn open_at(path: &Path) -> Result<Rc<Driver>, Error> {
        // SAFETY: the caller's.
        let library = unsafe { library::open(path.as_os_str()) };
        Driver::of(library.map_err(|said| Error::Absent { tried: vec![said] })?)
    }

    fn of(library: Library) -> Result<Rc<Driver>, Error> {
        // SAFETY: the signatures are those of cuda.h.
        let functions = unsafe { Functions::of(&library, |name, reason| Error::Function { name, reason }) }?;
        let driver = Driver { functions, _library: ManuallyDrop::new(library) };
        // SAFETY: no conditions.
        driver.check("cuInit", unsafe { (driver.functions.cuInit)(0) })?;
        Ok(Rc::new(driver))
    }

    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the driver writes null or a text that lives as long as the library.
        let reason = unsafe {
            (self.functions.cuGetErrorString)(code, &raw mut text);
            if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        Err(Error::Call { call, code, reason })
    }

    /// Number of GPUs.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn count(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: the pointer is valid for the call.
        self.check("cuDeviceGetCount", unsafe { (self.functions.cuDeviceGetCount)(&raw mut count) })?;
        Ok(usize::try_from(count).unwrap_or_default())
    }
}

/// A GPU that this process uses.
pub struct Gpu {
    context: Rc<Context>,
    stream: Stream,
    name: String,
    capability: (i32, i32),
    memory_bytes: usize,
}

impl Gpu {
    /// Begins to use GPU number `number`.
    ///
    /// # Errors
    /// When there is no such GPU, or the driver fails.
    pub fn open(driver: &Rc<Driver>, number: usize) -> Result<Rc<Gpu>, Error> {
        let count = driver.count()?;
        if number >= count {
            return Err(Error::Device { number, count });
        }
        let call = &driver.functions;
        let mut device = 0;
        let (mut name, mut capability, mut memory_bytes) = ([0; 128], [0; 2], 0);
        // SAFETY: all pointers are valid for their calls; the name has the length that is told, and ends in zeros.
        unsafe {
            driver.check("cuDeviceGet", (call.cuDeviceGet)(&raw mut device, number as c_int))?;
            driver
                .check("cuDeviceGetName", (call.cuDeviceGetName)(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
            for (value, attribute) in capability.iter_mut().zip(CAPABILITY) {
                driver.check("cuDeviceGetAttribute", (call.cuDeviceGetAttribute)(value, attribute, device))?;
            }
            driver.check("cuDeviceTotalMem", (call.cuDeviceTotalMem_v2)(&raw mut memory_bytes, device))?;
        }
        let name = name.iter().map(|letter| *letter as u8).take_while(|letter| *letter != 0).collect::<Vec<u8>>();
        let context = Context::of(driver, device)?;
        Ok(Rc::new(Gpu {
            stream: Stream::of(&context, USUAL)?,
            context,
            name: String::from_utf8_lossy(&name).into_owned(),
            capability: (capability[0], capability[1]),
            memory_bytes,
        }))
    }

    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its generation: (8, 0) is sm_80.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// All of its memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Waits until all that was asked for is done.
    ///
    /// # Errors
    /// When something that was asked for failed.
    pub fn synchronise(&self) -> Result<(), Error> {
        self.stream.synchronise()
    }

    /// Memory of unspecified content.
    ///
    /// # Errors
    /// When there is not as much.
    pub fn memory(self: &Rc<Gpu>, bytes: usize) -> Result<Memory, Error> {
        let mut address = 0;
        // SAFETY: the pointer is valid for the call. The driver refuses a length of 0.
        let code = unsafe { (self.context.driver.functions.cuMemAlloc_v2)(&raw mut address, bytes.max(1)) };
        self.context.driver.check("cuMemAlloc", code)?;
        Ok(Memory { gpu: Rc::clone(self), address, bytes })
    }

    /// Main memory that the GPU reads by itself, of unspecified content.
    ///
    /// # Errors
    /// When the system does not give as much.
    pub(super) fn pinned(self: &Rc<Gpu>, bytes: usize) -> Result<Pinned, Error> {
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (self.context.driver.functions.cuMemAllocHost_v2)(&raw mut pointer, bytes.max(1)) };
        self.context.driver.check("cuMemAllocHost", code)?;
        Ok(Pinned { gpu: Rc::clone(self), pointer: pointer.cast(), bytes })
    }

    /// Copies between addresses of the GPU, after all that was asked for before.
    ///
    /// # Errors
    /// When the driver refuses it.
    ///
    /// # Safety
    /// Both ranges are memory of this GPU.
    pub(super) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), Error> {
        // SAFETY: the caller's.
        let code =
            unsafe { (self.context.driver.functions.cuMemcpyDtoDAsync_v2)(to, from, bytes, self.stream.handle()) };
        self.context.driver.check("cuMemcpyDtoDAsync", code)
    }

    /// What all this runs on, and other libraries of NVIDIA's are told to work on.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A stream beside it, whose work goes first where both have some.
    ///
    /// # Errors
    /// When the driver fails.
    pub(super) fn stream_beside(&self) -> Result<Stream, Error> {
        Stream::of(&self.context, AHEAD)
    }

    /// An event that has not been recorded, and so is not waited for.
    ///
    /// # Errors
    /// When the driver fails.
    pub(super) fn event(&self) -> Result<Event, Error> {
        Event::of(&self.context)
    }

    /// Loads compiled code: a cubin for this GPU, or PTX that ends in a zero byte.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub fn module(self: &Rc<Gpu>, code: &[u8]) -> Result<Rc<Module>, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the driver reads as far as the code says that it reaches; NVRTC's outputs are whole.
        let result = unsafe { (self.context.driver.functions.cuModuleLoadData)(&raw mut handle, code.as_ptr().cast()) };
        self.context.driver.check("cuModuleLoadData", result)?;
        Ok(Rc::new(Module { gpu: Rc::clone(self), handle }))
    }

    /// Starts a kernel; it runs after all that was asked for before.
    ///
    /// # Errors
    /// When the driver refuses it; what goes wrong while it runs shows at a later call.
    ///
    /// # Panics
    /// When it asks for more shared memory than any kernel here needs.
    ///
    /// # Safety
    /// The launch is one of this function's: arguments are of its types, and its pointers reach what it reads and writes.
    pub unsafe fn launch(&self, function: &Function, launch: &Launch) -> Result<(), Error> {
        assert!(launch.shared <= SHARED_BYTES, "{}: {} bytes of shared memory", launch.kernel, launch.shared);
        let mut cells: Vec<u64> = launch.arguments.iter().map(|argument| argument.bits).collect();
        let mut arguments: Vec<*mut c_void> = cells.iter_mut().map(|cell| std::ptr::from_mut(cell).cast()).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the driver copies the arguments before it returns; the rest is the caller's.
        let code = unsafe {
            (self.context.driver.functions.cuLaunchKernel)(
                function.handle,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                launch.shared,
                self.stream.handle(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.context.driver.check("cuLaunchKernel", code)
    }

    /// Whether all that was asked for is done.
    ///
    /// # Errors
    /// When something that was asked for failed.
    pub fn is_done(&self) -> Result<bool, Error> {
        self.stream.is_done()
    }
}

/// Memory of a GPU.
pub struct Memory {
    gpu: Rc<Gpu>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of its byte number `first`.
    pub fn at<T>(&self, first: usize) -> Pointer<T> {
        assert!(first <= self.bytes, "byte {first} of {}", self.bytes);
        Pointer::new(self.address).bytes(first)
    }

    /// Fills it from main memory, once all that was asked for before is done.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        assert_eq!(bytes.len(), self.bytes, "bytes for memory of the GPU");
        let gpu = &self.gpu;
        // SAFETY: both ranges have this length, and the bytes live until the stream has been waited for.
        let code = unsafe {
            (gpu.context.driver.functions.cuMemcpyHtoDAsync_v2)(
                self.address,
                bytes.as_ptr().cast(),
                bytes.len(),
                gpu.stream.handle(),
            )
        };
        gpu.context.driver.check("cuMemcpyHtoDAsync", code)?;
        gpu.synchronise()
    }

    /// Fills it from byte `first` on with a part of pinned memory, after all that was asked for on the stream; the call does not wait. That part
    /// must stay as it is until the stream has been waited for.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub(super) fn write_later(
        &self,
        first: usize,
        (pinned, part): (&Pinned, Range<usize>),
        stream: &Stream,
    ) -> Result<(), Error> {
        let (gpu, bytes) = (&self.gpu, &pinned.bytes()[part]);
        assert!(first + bytes.len() <= self.bytes, "{} bytes from {first} on of {}", bytes.len(), self.bytes);
        // SAFETY: both ranges have this length; pinned memory is freed after the stream has been waited for.
        let code = unsafe {
            (gpu.context.driver.functions.cuMemcpyHtoDAsync_v2)(
                self.address + first as u64,
                bytes.as_ptr().cast(),
                bytes.len(),
                stream.handle(),
            )
        };
        gpu.context.driver.check("cuMemcpyHtoDAsync", code)
    }

    /// What it holds, once all that was asked for before is done.
    ///
    /// # Errors
    /// When the driver fails, or a kernel before did.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0u8; self.bytes];
        self.read_part(&mut bytes)?;
        Ok(bytes)
    }

    /// Its first bytes, as many as fit, once all that was asked for before is done.
    ///
    /// # Errors
    /// When the driver fails, or a kernel before did.
    pub(super) fn read_part(&self, bytes: &mut [u8]) -> Result<(), Error> {
        assert!(bytes.len() <= self.bytes, "{} bytes of {}", bytes.len(), self.bytes);
        let gpu = &self.gpu;
        // SAFETY: both ranges have this length, and the bytes live until the stream has been waited for.
        let code = unsafe {
            let to = bytes.as_mut_ptr().cast();
            (gpu.context.driver.functions.cuMemcpyDtoHAsync_v2)(to, self.address, bytes.len(), gpu.stream.handle())
        };
        gpu.context.driver.check("cuMemcpyDtoHAsync", code)?;
        gpu.synchronise()
    }

    /// Where it is.
    pub(super) fn gpu(&self) -> &Rc<Gpu> {
        &self.gpu
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the address came from the driver, and is freed once; the driver waits for kernels that use it.
        unsafe { (self.gpu.context.driver.functions.cuMemFree_v2)(self.address) };
    }
}

/// Main memory that the GPU reads by itself.
pub(super) struct Pinned {
    gpu: Rc<Gpu>,
    pointer: *mut u8,
    bytes: usize,
}

impl Pinned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the driver gave so many bytes, and any are valid.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    /// Its bytes; those that the GPU has not read yet must not be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the driver gave so many bytes, and any are valid.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the driver gave it, and it is freed once, when nothing reads it any more: its owner waits first.
        unsafe { (self.gpu.context.driver.functions.cuMemFreeHost)(self.pointer.cast()) };
    }
}

/// Loaded code.
pub struct Module {
    gpu: Rc<Gpu>,
    handle: Handle,
}

impl Module {
    /// A kernel of it.
    ///
    /// # Errors
    /// When it has no kernel of that name.
    pub fn function(self: &Rc<Module>, name: &str) -> Result<Function, Error> {
        let text = CString::new(name).map_err(|_| Error::Kernel { name: name.to_owned() })?;
        let driver = &self.gpu.context.driver;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is alive, and the text lives through the call.
        let code = unsafe { (driver.functions.cuModuleGetFunction)(&raw mut handle, self.handle, text.as_ptr()) };
        if code == NOT_FOUND {
            return Err(Error::Kernel { name: name.to_owned() });
        }
        driver.check("cuModuleGetFunction", code)?;
        // SAFETY: the function was just found.
        let code = unsafe { (driver.functions.cuFuncSetAttribute)(handle, MOST_SHARED, SHARED_BYTES as c_int) };
        driver.check("cuFuncSetAttribute", code)?;
        Ok(Function { handle, _module: Rc::clone(self) })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: functions hold their module, so none is used any more.
        unsafe { (self.gpu.context.driver.functions.cuModuleUnload)(self.handle) };
    }
}

/// A kernel of loaded code.
pub struct Function {
    handle: Handle,
    _module: Rc<Module>,
}
