//! What NVIDIA's own files say of what the program calls: headers, cuBLASLt, NCCL and the assembler as PyPI has them. None of it needs a GPU.
//!
//! `IJEPA_NVIDIA` names the folder of packages that `cargo xtask cuda` installs.
#![allow(unsafe_code)]

use super::shim;
use ijepa_tensor::cuda::nccl::Nccl;
use ijepa_tensor::cuda::{SOURCES, code};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules that call NVIDIA's libraries, with their texts.
const CALLERS: [(&str, &str); 4] = [
    ("driver", include_str!("../../../src/cuda/driver.rs")),
    ("stream", include_str!("../../../src/cuda/stream.rs")),
    ("blas", include_str!("../../../src/cuda/blas.rs")),
    ("nccl", include_str!("../../../src/cuda/nccl.rs")),
];

/// Numbers of the headers, by the names that they have here, in C++.
const NUMBERS: [(&str, &str); 27] = [
    ("MOST_SHARED", "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"),
    ("OUT_OF_MEMORY", "CUDA_ERROR_OUT_OF_MEMORY"),
    ("NOT_FOUND", "CUDA_ERROR_NOT_FOUND"),
    (
        "REFUSED",
        "CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_INVALID_PTX, CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    ),
    ("CAPABILITY", "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR"),
    ("SLEEP_WHILE_WAITING", "CU_CTX_SCHED_BLOCKING_SYNC"),
    ("NON_BLOCKING", "CU_STREAM_NON_BLOCKING"),
    ("SLEEPING_WITHOUT_TIME", "CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING"),
    ("NOT_READY", "CUDA_ERROR_NOT_READY"),
    ("USUAL", "0"),
    ("AHEAD", "-1"),
    ("COMPUTE_F32", "CUBLAS_COMPUTE_32F"),
    ("TYPE_F32", "CUDA_R_32F"),
    ("TYPE_BF16", "CUDA_R_16BF"),
    ("TRANSPOSE_A", "CUBLASLT_MATMUL_DESC_TRANSA"),
    ("TRANSPOSE_B", "CUBLASLT_MATMUL_DESC_TRANSB"),
    ("EPILOGUE", "CUBLASLT_MATMUL_DESC_EPILOGUE"),
    ("BIAS_POINTER", "CUBLASLT_MATMUL_DESC_BIAS_POINTER"),
    ("EPILOGUE_BIAS", "CUBLASLT_EPILOGUE_BIAS"),
    ("MOST_WORKSPACE", "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES"),
    ("REDUCTIONS", "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK"),
    ("LEAST_ALIGNMENT", "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES"),
    ("REDUCE_IN_F32", "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE"),
    ("FLOAT32", "ncclFloat32"),
    ("FLOAT64", "ncclFloat64"),
    ("SUM", "ncclSum"),
    ("IN_PROGRESS", "ncclInProgress"),
];

/// Whether two functions are called in the same way: as many arguments, each a whole number or a struct of one size, or a pointer; numbers that pointers
/// lead to have one size too.
const CALLED_ALIKE: &str = "
#include <cublasLt.h>
#include <cuda.h>
#include <nccl.h>
#include <stddef.h>
#include <type_traits>
template <class T> constexpr int KIND = std::is_pointer_v<T> ? 1 : std::is_integral_v<T> || std::is_enum_v<T> ? 2 : std::is_class_v<T> ? 3 : 4;
template <class T> using Target = std::remove_pointer_t<T>;
template <class T> constexpr bool NUMBER = std::is_arithmetic_v<T> || std::is_enum_v<T>;
template <class A, class B> constexpr bool LEAD_TO_SAME = [] {
    if constexpr (NUMBER<Target<A>> && NUMBER<Target<B>>) return sizeof(Target<A>) == sizeof(Target<B>);
    else return std::is_pointer_v<Target<A>> == std::is_pointer_v<Target<B>>;
}();
template <class A, class B> constexpr bool SAME = KIND<A> == KIND<B> && sizeof(A) == sizeof(B) && LEAD_TO_SAME<A, B>;
template <class F, class G> constexpr bool ALIKE = false;
template <class R, class... A, class S, class... B> constexpr bool ALIKE<R(A...), S(B...)> = [] {
    if constexpr (sizeof...(A) != sizeof...(B)) return false;
    else return SAME<R, S> && (SAME<A, B> && ...);
}();
struct Id { char bytes[128]; };
";

/// The structs that the program shares with cuBLASLt, and the numbers that it counts on from `LEAST_ALIGNMENT`.
const LAYOUTS: &str = "
static_assert(sizeof(cublasLtMatmulAlgo_t) == 64 && sizeof(cublasLtMatmulHeuristicResult_t) == 96);
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == 64 && offsetof(cublasLtMatmulHeuristicResult_t, state) == 72);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES == LEAST_ALIGNMENT + 1 && CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES == LEAST_ALIGNMENT + 2);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES == LEAST_ALIGNMENT + 3);
static_assert(CUBLASLT_REDUCTION_SCHEME_NONE == 0);
";

/// Describes a product to cuBLASLt as blas.rs does, with values of the same sizes; returns how many descriptions were refused.
const DESCRIBES: &str = "
extern \"C\" int describe() {
    int refused = 0, yes = 1, epilogue = EPILOGUE_BIAS;
    unsigned long long address = 4096;
    size_t most = 32 << 20;
    unsigned alignment = 256, reductions = REDUCE_IN_F32, none = 0;
    cublasLtMatmulDesc_t product;
    refused += cublasLtMatmulDescCreate(&product, cublasComputeType_t(COMPUTE_F32), cudaDataType(TYPE_F32)) != 0;
    auto set = [&](int attribute, auto value) {
        refused += cublasLtMatmulDescSetAttribute(product, cublasLtMatmulDescAttributes_t(attribute), &value, sizeof value) != 0;
    };
    set(TRANSPOSE_A, yes), set(TRANSPOSE_B, yes), set(EPILOGUE, epilogue), set(BIAS_POINTER, address);
    for (int type : {TYPE_F32, TYPE_BF16}) {
        cublasLtMatrixLayout_t layout;
        refused += cublasLtMatrixLayoutCreate(&layout, cudaDataType(type), 64, 32, 64) != 0;
        refused += cublasLtMatrixLayoutDestroy(layout) != 0;
    }
    cublasLtMatmulPreference_t preference;
    refused += cublasLtMatmulPreferenceCreate(&preference) != 0;
    auto prefer = [&](int attribute, auto value) {
        refused += cublasLtMatmulPreferenceSetAttribute(preference, cublasLtMatmulPreferenceAttributes_t(attribute), &value, sizeof value) != 0;
    };
    prefer(MOST_WORKSPACE, most), prefer(REDUCTIONS, reductions), prefer(REDUCTIONS, none);
    for (int i = 0; i < 4; i++) prefer(LEAST_ALIGNMENT + i, alignment);
    refused += cublasLtMatmulPreferenceDestroy(preference) != 0;
    refused += cublasLtMatmulDescDestroy(product) != 0;
    return refused;
}
int main() { return describe(); }
";

/// Where NVIDIA's packages are.
fn nvidia() -> Option<PathBuf> {
    let folder = std::env::var_os("IJEPA_NVIDIA").map(PathBuf::from);
    if folder.is_none() {
        super::skip("no packages of NVIDIA's: IJEPA_NVIDIA names none, `cargo xtask cuda` installs them");
    }
    folder
}

/// Compiles C++ over NVIDIA's headers.
fn compile(nvidia: &Path, name: &str, text: &str, more: &[&str]) -> Option<PathBuf> {
    let Some(compiler) = shim::compiler() else {
        super::skip("no C++ compiler: CXX, c++, g++ and clang++ were tried");
        return None;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join(format!("{name}.cpp")), folder.join(name));
    std::fs::write(&source, text).expect("target is writable");
    let headers = ["cu13/include", "cu13/include/cccl", "nccl/include"];
    let output = Command::new(&compiler)
        .arg("-std=c++17")
        .args(headers.map(|folder| format!("-I{}", nvidia.join(folder).display())))
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .args(more)
        .output()
        .expect("the compiler starts");
    assert!(output.status.success(), "{name}.cpp: {}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// A type of a function's signature in C++: only its kind and size count.
fn in_cpp(name: &str) -> &'static str {
    match name.trim() {
        "c_int" => "int",
        "c_uint" => "unsigned",
        "u64" => "unsigned long long",
        "i64" => "long long",
        "usize" => "size_t",
        "Id" => "Id",
        "Handle" => "void*",
        "*mut c_int" => "int*",
        "*mut usize" => "size_t*",
        "*mut u64" => "unsigned long long*",
        "*const f32" => "const float*",
        "*mut c_char" | "*const c_char" => "char*",
        "*mut Handle" | "*mut *mut c_void" | "*mut *const c_char" => "void**",
        "*mut c_void" | "*const c_void" | "*mut Id" | "*mut Choice" | "*const Algorithm" => "void*",
        name => panic!("the type {name} of a signature"),
    }
}

/// All functions that a text declares: name, and type in C++.
fn signatures(text: &str) -> Vec<(&str, String)> {
    let Some((_, declared)) = text.split_once("functions! {\n") else { return Vec::new() };
    let (declared, _) = declared.split_once("\n}\n").expect("it ends");
    let declarations = declared.split(';').map(str::trim).filter(|declaration| !declaration.is_empty());
    let signature = |declaration| {
        let (name, rest) = str::split_once(declaration, '(').expect("arguments");
        let (arguments, result) = rest.rsplit_once(')').expect("they end");
        let arguments = arguments.split(',').filter(|argument| !argument.trim().is_empty()).map(in_cpp);
        let arguments = arguments.collect::<Vec<_>>().join(", ");
        let result = result.trim().strip_prefix("->").map_or("int", in_cpp);
        (name, format!("{result}({arguments})"))
    };
    declarations.map(signature).collect()
}

/// All numbers with a type of C that a text defines.
fn numbers(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(|line| line.strip_prefix("pub(super) ").unwrap_or(line));
    lines.filter_map(|line| line.strip_prefix("const ")).filter_map(|definition| {
        let (name, rest) = definition.split_once(": ")?;
        let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
        let of_c = ["c_int", "c_uint", "i32", "u32"].iter().any(|name| kind.trim_start_matches('[').starts_with(name));
        of_c.then_some((name, value.trim_matches(['[', ']'])))
    })
}

#[test]
fn every_function_is_called_as_nvidias_headers_declare_it() {
    let Some(nvidia) = nvidia() else { return };
    let mut text = CALLED_ALIKE.to_owned();
    let mut count = 0;
    for (name, signature) in CALLERS.iter().flat_map(|(_, text)| signatures(text)) {
        writeln!(text, "static_assert(ALIKE<decltype({name}), {signature}>, \"{name}\");").expect("memory");
        count += 1;
    }
    assert!(count > 50, "{count} functions were found in the texts");
    text.push_str("int main() {}\n");
    compile(&nvidia, "nvidia-functions", &text, &[]);
}

#[test]
fn every_number_is_that_of_nvidias_headers_and_cublaslt_takes_them() {
    let Some(nvidia) = nvidia() else { return };
    let mut text = "#include <cublasLt.h>\n#include <cuda.h>\n#include <nccl.h>\n#include <stddef.h>\n".to_owned();
    let mut met = Vec::new();
    for (module, (name, value)) in CALLERS.iter().flat_map(|(module, text)| numbers(text).map(move |it| (module, it))) {
        if name == "SHARED_BYTES" {
            continue; // a limit of ours
        }
        let (_, theirs) = NUMBERS.iter().find(|(ours, _)| *ours == name).unwrap_or_else(|| panic!("{module}: {name}"));
        met.push(name);
        assert_eq!(value.split(',').count(), theirs.split(',').count(), "{name}");
        for (ours, theirs) in value.split(',').zip(theirs.split(',')) {
            writeln!(text, "static_assert(int({ours}) == int({theirs}), \"{name}\");").expect("memory");
        }
        if !value.contains(',') {
            writeln!(text, "const int {name} = {value};").expect("memory");
        }
    }
    assert_eq!(met, NUMBERS.map(|(name, _)| name), "numbers of the texts");
    text += LAYOUTS;
    text += DESCRIBES;
    let library = nvidia.join("cu13/lib/libcublasLt.so.13").display().to_string();
    let path = format!("-Wl,-rpath,{}", nvidia.join("cu13/lib").display());
    let Some(program) = compile(&nvidia, "nvidia-numbers", &text, &[&library, &path]) else { return };
    let status = Command::new(program).status().expect("it starts");
    assert_eq!(status.code(), Some(0), "descriptions of a product that cuBLASLt refused");
}

#[test]
fn nccl_is_opened_and_names_jobs() {
    let Some(nvidia) = nvidia() else { return };
    // SAFETY: it is NVIDIA's.
    let nccl =
        unsafe { Nccl::open_at(&nvidia.join("nccl/lib/libnccl.so.2")) }.unwrap_or_else(|error| panic!("{error}"));
    assert!(nccl.version() > (2, 20, 0), "{:?}", nccl.version());
    let [first, second] = [nccl.id(), nccl.id()].map(|id| id.unwrap_or_else(|error| panic!("{error}")));
    assert!(first.0 != second.0 && first.0 != [0; 128], "two jobs have one name");
}

#[test]
fn the_ptx_inside_the_program_is_assembled_for_four_generations_of_cards_and_spills_nothing() {
    let Some(nvidia) = nvidia() else { return };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (_, parts) = code::embedded();
    for (source, ptx) in SOURCES.iter().zip(parts) {
        let text = folder.join(format!("{}.ptx", source.name));
        std::fs::write(&text, &ptx[..ptx.len() - 1]).expect("target is writable");
        for target in ["sm_80", "sm_90", "sm_100", "sm_120"] {
            let output = Command::new(nvidia.join("cu13/bin/ptxas"))
                .args(["-v", "-arch", target, "-o", "/dev/null"])
                .arg(&text)
                .output()
                .expect("the assembler starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}, {target}: {said}", source.name);
            let compiled = said.lines().filter(|line| line.contains("Compiling entry function")).count();
            assert_eq!(compiled, source.kernels.len(), "{}, {target}: {said}", source.name);
            let spills = said.lines().filter(|line| line.contains("bytes stack frame"));
            let spills: Vec<&str> =
                spills.filter(|line| line.split(',').any(|part| !part.trim().starts_with("0 bytes"))).collect();
            assert!(spills.is_empty(), "{}, {target}: {spills:?}", source.name);
        }
    }
}
