//! How are matrices multiplied on a GPU? By NVIDIA's cuBLASLt, a library that is opened when it is needed. What it is told for a shape
//! is kept for the next time.
//!
//! It counts in columns: a row-major (r, c) is a matrix of c rows for it. So it is asked for Cᵀ = Bᵀ·Aᵀ, and a bias that
//! stands for each column of C is one for each row of Cᵀ, which is what it adds.

use super::driver::Gpu;
use super::launch::{Bf16, Pointer};
use super::library::{self, functions};
use crate::gemm::{Gemm, Layout};
use libloading::Library;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::{ManuallyDrop, offset_of};
use std::path::Path;

/// Names under which the library is looked for, unless the variable `IJEPA_CUBLASLT` holds its path.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "cublasLt64_13.dll"];

/// Scratch that algorithms may use, as cuBLAS takes it on Hopper.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// Why there is no product.
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
    /// A call failed.
    Call {
        /// What was called, and for which product.
        call: String,
        /// The library's number of the error.
        code: i32,
        /// The library's words.
        reason: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Absent { tried } => write!(
                f,
                "no cuBLASLt that will do was found: {}; the CUDA toolkit brings it, and so does `pip install nvidia-cublas` for the python3 on PATH; IJEPA_CUBLASLT may name the file",
                tried.join("; ")
            ),
            Error::Function { name, reason } => {
                write!(f, "cuBLASLt lacks {name} ({reason}); version 12 or 13 is expected")
            }
            Error::Call { call, code, reason } => write!(f, "{call} failed with {code}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

type Handle = *mut c_void;

// Signatures of cublasLt.h.
functions! {
    cublasLtCreate(*mut Handle);
    cublasLtDestroy(Handle);
    cublasLtMatmulDescCreate(*mut Handle, c_int, c_int);
    cublasLtMatmulDescDestroy(Handle);
    cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize);
    cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64);
    cublasLtMatrixLayoutDestroy(Handle);
    cublasLtMatmulPreferenceCreate(*mut Handle);
    cublasLtMatmulPreferenceDestroy(Handle);
    cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize);
    cublasLtMatmulAlgoGetHeuristic(Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Choice, *mut c_int);
    cublasLtMatmul(
        Handle, Handle, *const f32, *const c_void, Handle, *const c_void, Handle, *const f32, *const c_void, Handle, *mut c_void, Handle,
        *const Algorithm, *mut c_void, usize, Handle
    );
}

/// `CUBLAS_COMPUTE_32F`: products of bf16 are summed in f32.
const COMPUTE_F32: c_int = 68;
/// `CUDA_R_32F` and `CUDA_R_16BF`.
const TYPE_F32: c_int = 0;
const TYPE_BF16: c_int = 14;
/// `CUBLASLT_MATMUL_DESC_`…
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;
const EPILOGUE: c_int = 7;
const BIAS_POINTER: c_int = 8;
/// `CUBLASLT_EPILOGUE_BIAS`.
const EPILOGUE_BIAS: c_int = 4;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, `REDUCTION_SCHEME_MASK`, and the first of the four least alignments, of A, B, C and D.
const MOST_WORKSPACE: c_int = 1;
const REDUCTIONS: c_int = 3;
const LEAST_ALIGNMENT: c_int = 5;
/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`: parts of a sum are added in f32. Without it, sums have no parts.
const REDUCE_IN_F32: u32 = 2;

/// `cublasLtMatmulAlgo_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub(super) struct Choice {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// The result (m, n) of a product.
#[derive(Clone, Copy)]
pub(crate) enum Out {
    /// Rounded.
    Bf16(Pointer<Bf16>),
    /// As summed.
    F32(Pointer<f32>),
}

/// out (m, n) = a·b [+ bias (n)] [+ added (m, n)], or += where the shape says so.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) out: Out,
    pub(crate) a: Pointer<Bf16>,
    pub(crate) b: Pointer<Bf16>,
    pub(crate) bias: Option<Pointer<Bf16>>,
    /// Not with a sum that goes on, and rounded as the result is.
    pub(crate) added: Option<Pointer<Bf16>>,
    pub(crate) shape: Gemm,
}

const _: () =
    assert!(size_of::<Choice>() == 96 && offset_of!(Choice, workspace_bytes) == 64 && offset_of!(Choice, state) == 72);

/// What a plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    m: usize,
    n: usize,
    k: usize,
    transposed: [bool; 2],
    rounded: bool,
    added: bool,
    bias: bool,
    /// Of a, b, what is added and the result, in bytes.
    alignments: [u32; 4],
}

/// What the library is told for a shape, and how it is going to do it.
struct Plan {
    product: Handle,
    layouts: [Handle; 3], // of its A and B, and of both C and D
    algorithm: Algorithm,
}

/// The opened library. It belongs to the thread that has the GPU.
pub(super) struct Blas {
    functions: Functions,
    handle: Handle,
    plans: RefCell<HashMap<Key, Plan>>,
    /// Never closed: it has threads and destructors of its own.
    library: ManuallyDrop<Library>,
}

impl Blas {
    /// Opens the library of this machine, for the GPU that this thread uses.
    ///
    /// # Errors
    /// When it is nowhere, or does not start.
    pub(super) fn open() -> Result<Blas, Error> {
        // SAFETY: it is NVIDIA's.
        let found =
            unsafe { library::first("IJEPA_CUBLASLT", &NAMES, &library::folders(), |library, _| Blas::of(library)) };
        found.unwrap_or_else(|tried| Err(Error::Absent { tried }))
    }

    /// Opens a library that has its functions.
    ///
    /// # Errors
    /// When it lacks one.
    ///
    /// # Safety
    /// Its functions do what cuBLASLt's do.
    pub(super) unsafe fn open_at(path: &Path) -> Result<Blas, Error> {
        // SAFETY: the caller's.
        let library = unsafe { library::open(path.as_os_str()) };
        Blas::of(library.map_err(|said| Error::Absent { tried: vec![said] })?)
    }

    fn of(library: Library) -> Result<Blas, Error> {
        // SAFETY: the signatures are those of cublasLt.h.
        let functions = unsafe { Functions::of(&library, |name, reason| Error::Function { name, reason }) }?;
        let mut blas = Blas {
            functions,
            handle: std::ptr::null_mut(),
            plans: RefCell::default(),
            library: ManuallyDrop::new(library),
        };
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (blas.functions.cublasLtCreate)(&raw mut blas.handle) };
        blas.check(code, || "cublasLtCreate".into())?;
        Ok(blas)
    }

    fn check(&self, code: c_int, call: impl Fn() -> String) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        type Name = unsafe extern "C" fn(c_int) -> *const c_char;
        // SAFETY: the signature is that of cublasLt.h, of version 11.4 and later; the text lives as long as the library.
        let reason = unsafe {
            self.library.get::<Name>("cublasLtGetStatusString").map_or("unknown".into(), |name| {
                let text = name(code);
                if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
            })
        };
        Err(Error::Call { call: call(), code, reason })
    }

    /// Multiplies; `workspace` has [`WORKSPACE_BYTES`].
    ///
    /// # Errors
    /// When the library refuses it.
    ///
    /// # Safety
    /// The pointers reach what the shape says, on `gpu`.
    pub(super) unsafe fn multiply(
        &self,
        gpu: &Gpu,
        workspace: Pointer<u8>,
        Product { out, a, b, bias, added, shape }: Product,
    ) -> Result<(), Error> {
        let (address, rounded) = match out {
            Out::Bf16(out) => (out.address(), true),
            Out::F32(out) => (out.address(), false),
        };
        assert!(!(added.is_some() && (shape.accumulate || !rounded)), "a residual and a sum at once: {shape:?}");
        let added_at = added.map_or(address, Pointer::address);
        let key = Key {
            m: shape.m,
            n: shape.n,
            k: shape.k,
            transposed: [shape.a == Layout::Transposed, shape.b == Layout::Transposed],
            rounded,
            added: added.is_some() || shape.accumulate,
            bias: bias.is_some(),
            alignments: [a.address(), b.address(), added_at, address].map(alignment),
        };
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.plan(key, bias)?),
        };
        if let Some(bias) = bias {
            self.set(plan.product, BIAS_POINTER, &bias.address())?;
        }
        let (one, share) = (1.0f32, if key.added { 1.0f32 } else { 0.0 });
        let [of_b, of_a, of_c] = plan.layouts;
        // SAFETY: layouts and plan are alive; the rest is the caller's.
        let code = unsafe {
            (self.functions.cublasLtMatmul)(
                self.handle,
                plan.product,
                &raw const one,
                b.address() as *const c_void,
                of_b,
                a.address() as *const c_void,
                of_a,
                &raw const share,
                added_at as *const c_void,
                of_c,
                address as *mut c_void,
                of_c,
                &raw const plan.algorithm,
                workspace.address() as *mut c_void,
                WORKSPACE_BYTES,
                gpu.stream().handle(),
            )
        };
        self.check(code, || format!("cublasLtMatmul of {shape:?}"))
    }

    fn set<T>(&self, product: Handle, attribute: c_int, value: &T) -> Result<(), Error> {
        // SAFETY: the library copies as many bytes as it is told, which are those of the value.
        let code = unsafe {
            let value = std::ptr::from_ref(value).cast();
            (self.functions.cublasLtMatmulDescSetAttribute)(product, attribute, value, size_of::<T>())
        };
        self.check(code, || format!("cublasLtMatmulDescSetAttribute {attribute}"))
    }

    fn layout(&self, kind: c_int, (rows, columns): (usize, usize)) -> Result<Handle, Error> {
        let mut layout = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        let code = unsafe {
            let create = self.functions.cublasLtMatrixLayoutCreate;
            create(&raw mut layout, kind, rows as u64, columns as u64, rows as i64)
        };
        self.check(code, || "cublasLtMatrixLayoutCreate".into())?;
        Ok(layout)
    }

    fn plan(&self, key: Key, bias: Option<Pointer<Bf16>>) -> Result<Plan, Error> {
        let Key { m, n, k, transposed: [a_transposed, b_transposed], rounded, .. } = key;
        let call = &self.functions;
        let mut product = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (call.cublasLtMatmulDescCreate)(&raw mut product, COMPUTE_F32, TYPE_F32) };
        self.check(code, || "cublasLtMatmulDescCreate".into())?;
        // b lies as Bᵀ (n rows), or transposed as B.
        self.set(product, TRANSPOSE_A, &c_int::from(b_transposed))?;
        self.set(product, TRANSPOSE_B, &c_int::from(a_transposed))?;
        if let Some(bias) = bias {
            self.set(product, EPILOGUE, &EPILOGUE_BIAS)?;
            self.set(product, BIAS_POINTER, &bias.address())?;
        }
        let layouts = [
            self.layout(TYPE_BF16, if b_transposed { (k, n) } else { (n, k) })?,
            self.layout(TYPE_BF16, if a_transposed { (m, k) } else { (k, m) })?,
            self.layout(if rounded { TYPE_BF16 } else { TYPE_F32 }, (n, m))?,
        ];
        let algorithm = self.choose(key, product, layouts)?;
        Ok(Plan { product, layouts, algorithm })
    }

    fn choose(&self, key: Key, product: Handle, [of_b, of_a, of_c]: [Handle; 3]) -> Result<Algorithm, Error> {
        let call = &self.functions;
        let mut preference = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (call.cublasLtMatmulPreferenceCreate)(&raw mut preference) };
        self.check(code, || "cublasLtMatmulPreferenceCreate".into())?;
        let prefer = |attribute: c_int, bytes: usize, value: *const c_void| {
            // SAFETY: the library copies so many bytes of the value, which lives through the call.
            let code = unsafe { (call.cublasLtMatmulPreferenceSetAttribute)(preference, attribute, value, bytes) };
            self.check(code, || format!("cublasLtMatmulPreferenceSetAttribute {attribute}"))
        };
        let most = WORKSPACE_BYTES;
        prefer(MOST_WORKSPACE, size_of::<usize>(), (&raw const most).cast())?;
        // A rounded result would hold rounded parts.
        let reductions = if key.rounded { 0 } else { REDUCE_IN_F32 };
        prefer(REDUCTIONS, size_of::<u32>(), (&raw const reductions).cast())?;
        let [a, b, c, d] = key.alignments;
        for (number, alignment) in (0..).zip([b, a, c, d]) {
            prefer(LEAST_ALIGNMENT + number, size_of::<u32>(), (&raw const alignment).cast())?;
        }
        let mut choice =
            Choice { algorithm: Algorithm([0; 8]), workspace_bytes: 0, state: 0, waves: 0.0, reserved: [0; 4] };
        let mut found = 0;
        // SAFETY: all handles are alive, and there is room for the one choice that is asked for.
        let code = unsafe {
            (call.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                product,
                of_b,
                of_a,
                of_c,
                of_c,
                preference,
                1,
                &raw mut choice,
                &raw mut found,
            )
        };
        // SAFETY: it is destroyed once, and not used afterwards.
        unsafe { (call.cublasLtMatmulPreferenceDestroy)(preference) };
        let Key { m, n, k, .. } = key;
        self.check(code, || format!("cublasLtMatmulAlgoGetHeuristic for ({m}, {k}) by ({k}, {n})"))?;
        if found == 0 || choice.state != 0 {
            let call = format!("cublasLtMatmulAlgoGetHeuristic for ({m}, {k}) by ({k}, {n})");
            return Err(Error::Call { call, code: choice.state, reason: "no algorithm was found".into() });
        }
        Ok(choice.algorithm)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let call = &self.functions;
        // SAFETY: each is destroyed once, and nothing uses them any more.
        unsafe {
            for plan in self.plans.get_mut().values() {
                plan.layouts.iter().for_each(|&layout| _ = (call.cublasLtMatrixLayoutDestroy)(layout));
                (call.cublasLtMatmulDescDestroy)(plan.product);
            }
            (call.cublasLtDestroy)(self.handle);
        }
    }
}

/// The largest power of two up to 256 that divides an address.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}
