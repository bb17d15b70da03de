//! What kernels run on: the CPU in the place of a GPU, with every access watched, or with `IJEPA_CUDA_TEST=1` the first GPU of this
//! machine. Both through the driver's functions.
#![allow(unsafe_code)]

use ijepa_tensor::cuda::driver::{self, Driver, Function, Gpu};
use ijepa_tensor::cuda::launch::{Bf16, Element, Launch, Pointer};
use ijepa_tensor::cuda::{Device, Error, SOURCES, calls, code};
use libloading::{Library, Symbol};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

/// A GPU, or what stands for it. One test at a time has it.
pub(super) struct Machine {
    gpu: Rc<Gpu>,
    functions: HashMap<&'static str, Function>,
    shim: Option<Rc<Library>>,
    /// Whether its kernels are those of PTX.
    pub(super) of_ptx: bool,
    /// Decides in which order threads and blocks run on the CPU; 0 lets them run in theirs.
    pub(super) seed: u64,
    _turn: MutexGuard<'static, ()>,
}

/// The machine, or nothing where there is neither a C++ compiler nor a wish for a GPU.
pub(super) fn machine() -> Option<Machine> {
    let turn = turn();
    if wants_gpu() {
        return Some(real(turn));
    }
    Some(simulated(shim()?, turn, None).expect("the shim takes any code"))
}

/// The machine; and then, where it is the CPU, once more with the PTX inside the program in the place of the kernels' text, instruction by instruction.
pub(super) fn machines() -> impl Iterator<Item = Machine> {
    fn of_ptx() -> Option<Machine> {
        machine_of(code::embedded().1).map(|machine| machine.unwrap_or_else(|error| panic!("{error}")))
    }
    // The second one when the first is gone: one test at a time has one.
    [machine, of_ptx].into_iter().filter_map(|make| make())
}

/// The CPU running PTX, a module of each text, unless that is refused.
pub(super) fn machine_of(ptx: Vec<Vec<u8>>) -> Option<Result<Machine, driver::Error>> {
    let (turn, path) = (turn(), stand_in()?);
    Some(simulated(path, turn, Some(ptx)))
}

/// The same as the engine sees it.
pub(super) fn device() -> Option<(Rc<Device>, MutexGuard<'static, ()>)> {
    let turn = turn();
    let device = match wants_gpu() {
        true => Device::open(0),
        false => simulated_device(shim()?, false),
    };
    Some((device.unwrap_or_else(|error| panic!("{error}")), turn))
}

/// What the engine sees where kernels are those of the PTX that it loads; nothing on a GPU, where they always are.
pub(super) fn device_of_ptx() -> Option<(Rc<Device>, MutexGuard<'static, ()>)> {
    let (turn, path) = (turn(), stand_in()?);
    Some((simulated_device(path, true).unwrap_or_else(|error| panic!("{error}")), turn))
}

fn simulated_device(path: &Path, of_ptx: bool) -> Result<Rc<Device>, Error> {
    interpret(path, of_ptx);
    // SAFETY: the shim's functions stand for NVIDIA's.
    unsafe { Device::open_at(path) }
}

/// Whether kernels that this thread starts from now on are those of the PTX that it loads.
fn interpret(path: &Path, of_ptx: bool) {
    // SAFETY: the library's initialisers only fill its own tables, and the signature is that of ptx.cpp.
    unsafe {
        let shim = Library::new(path).expect("what was built can be opened");
        shim.get::<unsafe extern "C" fn(bool)>("shim_ptx").expect("the shim has it")(of_ptx);
    }
}

/// In which order streams do their work from now on, on this thread: see `streams.h`. A GPU has its own.
pub(super) fn order_streams(order: &'static CStr) {
    let Some(path) = stand_in() else { return };
    // SAFETY: the library is open already, and the signature is that of fake_driver.cpp; the text lives for ever.
    unsafe {
        let shim = Library::new(path).expect("what was built can be opened");
        let order_streams: Symbol<unsafe extern "C" fn(*const c_char)> =
            shim.get("shim_streams").expect("the shim has it");
        order_streams(order.as_ptr());
    }
}

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed with the machine in its hands leaves nothing behind that the next one could meet.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wants_gpu() -> bool {
    std::env::var_os("IJEPA_CUDA_TEST").is_some_and(|wanted| wanted == "1")
}

/// The shim, where no GPU is wanted.
fn stand_in() -> Option<&'static Path> {
    if wants_gpu() { None } else { shim() }
}

fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = SHIM.get_or_init(super::shim::build).as_deref();
    if built.is_none() {
        super::skip("no C++ compiler: CXX, c++, g++ and clang++ were tried");
    }
    built
}

fn real(turn: MutexGuard<'static, ()>) -> Machine {
    let driver = Driver::open().unwrap_or_else(|error| panic!("IJEPA_CUDA_TEST=1: {error}"));
    let gpu = Gpu::open(&driver, 0).unwrap_or_else(|error| panic!("IJEPA_CUDA_TEST=1: {error}"));
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("on {}, sm_{}{}", gpu.name(), gpu.capability().0, gpu.capability().1));
    let mut functions = HashMap::new();
    for (source, code) in SOURCES.iter().zip(code::embedded().1) {
        let module = gpu.module(&code).unwrap_or_else(|error| panic!("{}: {error}", source.name));
        let function = |&name: &&'static str| (name, module.function(name).unwrap_or_else(|error| panic!("{error}")));
        functions.extend(source.kernels.iter().map(function));
    }
    Machine { gpu, functions, shim: None, of_ptx: false, seed: 0, _turn: turn }
}

fn simulated(path: &Path, turn: MutexGuard<'static, ()>, ptx: Option<Vec<Vec<u8>>>) -> Result<Machine, driver::Error> {
    let of_ptx = ptx.is_some();
    interpret(path, of_ptx);
    // SAFETY: the library's initialisers only fill its own table of kernels, and its functions stand for the driver's.
    let (shim, driver) = unsafe { (Library::new(path).expect("what was built can be opened"), Driver::open_at(path)) };
    let driver = driver.expect("the shim has all functions");
    let gpu = Gpu::open(&driver, 0).expect("the shim has a GPU");
    // Without PTX any code will do: the shim has the kernels.
    let code = ptx.unwrap_or_else(|| vec![vec![0]]);
    let modules = code.iter().map(|code| gpu.module(code)).collect::<Result<Vec<_>, _>>()?;
    let module = modules.last().expect("there is code");
    let names = SOURCES.iter().flat_map(|source| source.kernels).chain(&super::shim::FAULTY);
    let functions = names.map(|&name| (name, module.function(name).expect("the shim has it"))).collect();
    Ok(Machine { gpu, functions, shim: Some(Rc::new(shim)), of_ptx, seed: 0, _turn: turn })
}

impl Machine {
    /// Whether accesses are watched.
    pub(super) fn watches(&self) -> bool {
        self.shim.is_some()
    }

    /// Runs a kernel.
    ///
    /// # Errors
    /// What it did wrong.
    pub(super) fn try_run(&self, launch: &Launch) -> Result<(), driver::Error> {
        let missing = || driver::Error::Kernel { name: launch.kernel.clone() };
        let function = self.functions.get(launch.kernel.as_str()).ok_or_else(missing)?;
        let kinds: Vec<u8> = launch.arguments.iter().map(|argument| argument.kind).collect();
        let kinds = CString::new(kinds).expect("kinds are letters");
        if let Some(shim) = &self.shim {
            // SAFETY: the signature is that of fake_driver.cpp, and the text lives until the launch has returned.
            unsafe {
                let expect: Symbol<unsafe extern "C" fn(*const c_char, u64)> =
                    shim.get("shim_expect").expect("the shim has it");
                expect(kinds.as_ptr(), self.seed);
            }
        }
        // SAFETY: types of arguments are compared with the text by the shim, which also watches what the kernel touches.
        unsafe { self.gpu.launch(function, launch) }?;
        self.gpu.synchronise()
    }

    /// Runs kernels one after the other.
    #[track_caller]
    pub(super) fn run(&self, launches: impl IntoIterator<Item = Launch>) {
        for launch in launches {
            if let Err(problem) = self.try_run(&launch) {
                panic!("{}: {problem}", launch.kernel);
            }
        }
    }

    /// What kernels ask of memory, each of them by its name; nothing where accesses are not watched.
    pub(super) fn traffic(&self, launches: impl IntoIterator<Item = Launch>) -> Option<BTreeMap<String, Traffic>> {
        let shim = self.shim.as_ref()?;
        // SAFETY: the signatures are those of traffic.cpp; the text lives until the next table is made.
        let table = unsafe {
            let start: Symbol<unsafe extern "C" fn()> = shim.get("shim_traffic_start").expect("the shim has it");
            let table: Symbol<unsafe extern "C" fn() -> *const c_char> =
                shim.get("shim_traffic").expect("the shim has it");
            start();
            self.run(launches);
            CStr::from_ptr(table()).to_str().expect("the table is ASCII").to_owned()
        };
        let row = |line: &str| {
            let (name, counts) = line.split_once(' ').expect("a name, and counts");
            let counts: Vec<u64> = counts.split(' ').map(|count| count.parse().expect("a count")).collect();
            let [read, read_sectors, written, written_sectors, turns, least_turns] = counts[..] else {
                panic!("counts of {name}")
            };
            let ratio = |much: u64, least: u64| if least == 0 { 1.0 } else { much as f64 / least as f64 };
            let traffic = Traffic {
                bytes: [read, written],
                excess: [ratio(32 * read_sectors, read), ratio(32 * written_sectors, written)],
                turns: ratio(turns, least_turns),
            };
            (name.to_owned(), traffic)
        };
        Some(table.lines().skip(1).map(row).collect())
    }

    /// A buffer of values.
    pub(super) fn buffer<T: Plain>(&self, values: &[T]) -> Memory<T> {
        Memory::new(self, values)
    }

    /// A buffer of activations, rounded.
    pub(super) fn bf16(&self, values: &[f32]) -> Memory<Half> {
        self.buffer(&values.iter().map(|&value| narrow(value)).collect::<Vec<Half>>())
    }

    /// A buffer that a kernel is going to write: NaN until then.
    pub(super) fn empty_bf16(&self, len: usize) -> Memory<Half> {
        self.buffer(&vec![Half(0x7fff); len])
    }

    /// A buffer that a kernel is going to write: NaN until then.
    pub(super) fn empty_f32(&self, len: usize) -> Memory<f32> {
        self.buffer(&vec![f32::NAN; len])
    }
}

/// What a kernel asks of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    /// That lanes read and write, each once for what a warp asks at a time.
    pub(super) bytes: [u64; 2],
    /// Bytes of the sectors of 32 that are moved for each of these.
    pub(super) excess: [f64; 2],
    /// Turns of shared memory for each that is needed at least.
    pub(super) turns: f64,
}

/// A bf16 as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Half(pub(super) u16);

pub(super) fn narrow(value: f32) -> Half {
    let bits = value.to_bits();
    Half(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
}

pub(super) fn widen(half: Half) -> f32 {
    f32::from_bits(u32::from(half.0) << 16)
}

/// Each value rounded to bf16.
pub(super) fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| widen(narrow(value))).collect()
}

/// A type without padding, and what pointers to it are called.
pub(super) trait Plain: Copy {
    type Named: Element;
}

impl Plain for Half {
    type Named = Bf16;
}
impl Plain for f32 {
    type Named = f32;
}
impl Plain for f64 {
    type Named = f64;
}
impl Plain for u32 {
    type Named = u32;
}
impl Plain for u8 {
    type Named = u8;
}
impl Plain for calls::Piece {
    type Named = Self;
}

/// Bytes before and behind a buffer that no kernel may touch.
const GUARD: usize = 4096;
/// What they hold.
const GUARD_BYTE: u8 = 0xa5;

/// A buffer between guards.
pub(super) struct Memory<T: Plain> {
    memory: driver::Memory,
    shim: Option<Rc<Library>>,
    values: PhantomData<T>,
}

impl<T: Plain> Memory<T> {
    fn new(machine: &Machine, values: &[T]) -> Memory<T> {
        let size = size_of_val(values);
        let mut bytes = vec![GUARD_BYTE; size + 2 * GUARD];
        let mut memory = machine.gpu.memory(bytes.len()).expect("there is memory");
        // SAFETY: values without padding are bytes, and the range has their length.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast(), bytes[GUARD..].as_mut_ptr(), size) };
        memory.write(&bytes).expect("bytes are copied");
        if let Some(shim) = &machine.shim {
            // SAFETY: the signature is that of shim.cpp; the address is forgotten before the memory is freed.
            unsafe {
                let guard: Symbol<unsafe extern "C" fn(Pointer<u8>, u64, u64)> =
                    shim.get("shim_guard").expect("the shim has it");
                guard(memory.at(GUARD), size as u64, GUARD as u64);
            }
        }
        Memory { memory, shim: machine.shim.clone(), values: PhantomData }
    }

    /// Where it begins.
    pub(super) fn at(&self) -> Pointer<T::Named> {
        self.memory.at(GUARD)
    }

    /// What it holds; the guards must be whole.
    #[track_caller]
    pub(super) fn read(&self) -> Vec<T> {
        let bytes = self.memory.read().expect("bytes are copied");
        let end = bytes.len() - GUARD;
        let whole = |bytes: &[u8]| bytes.iter().all(|&byte| byte == GUARD_BYTE);
        assert!(whole(&bytes[..GUARD]) && whole(&bytes[end..]), "a guard was written");
        let values = bytes[GUARD..end].chunks_exact(size_of::<T>());
        // SAFETY: each chunk has the size of a value, and any bits are one.
        values.map(|value| unsafe { value.as_ptr().cast::<T>().read_unaligned() }).collect()
    }
}

impl Memory<Half> {
    /// The values.
    #[track_caller]
    pub(super) fn floats(&self) -> Vec<f32> {
        self.read().into_iter().map(widen).collect()
    }
}

impl<T: Plain> Drop for Memory<T> {
    fn drop(&mut self) {
        if let Some(shim) = &self.shim {
            // SAFETY: the signature is that of shim.cpp.
            unsafe {
                let forget: Symbol<unsafe extern "C" fn(Pointer<u8>)> =
                    shim.get("shim_forget").expect("the shim has it");
                forget(self.memory.at(GUARD));
            }
        }
    }
}
