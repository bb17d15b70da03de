//! Every kernel compiles for three generations of cards, with NVRTC and no GPU.

use flate2::Compression;
use flate2::write::GzEncoder;
use ijepa_tensor::cuda::nvrtc::{Error, Nvrtc};
use ijepa_tensor::cuda::{SOURCES, code};
use std::io::Write;

/// A100, H100 and H200, B200.
const TARGETS: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

fn compiler() -> Option<Nvrtc> {
    match Nvrtc::open() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error @ Error::Absent { .. }) => {
            super::skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the assembler says of a kernel.
struct Usage {
    kernel: String,
    registers: usize,
    stack_bytes: usize,
    spill_bytes: usize,
}

/// The number before the first of these words.
fn before(text: &str, word: &str) -> usize {
    let (front, _) = text.split_once(word).unwrap_or_else(|| panic!("no `{word}` in {text:?}"));
    let number = front.split_whitespace().next_back().expect("a number before it");
    number.parse().unwrap_or_else(|_| panic!("a number before `{word}` in {text:?}"))
}

/// Reads the log of `--ptxas-options=-v`.
fn usages(log: &str) -> Vec<Usage> {
    let entries = log.split("Compiling entry function '").skip(1);
    let usage = |entry: &str| Usage {
        kernel: entry.split('\'').next().unwrap_or_default().to_owned(),
        registers: before(entry, " registers"),
        stack_bytes: before(entry, " bytes stack frame"),
        spill_bytes: before(entry, " bytes spill stores") + before(entry, " bytes spill loads"),
    };
    entries.map(usage).collect()
}

#[test]
fn every_kernel_compiles_for_sm_80_90_100_and_spills_nothing() {
    let Some(nvrtc) = compiler() else { return };
    eprintln!("NVRTC {:?}; registers of each kernel for {TARGETS:?}", nvrtc.version());
    for source in SOURCES {
        let mut registers = vec![Vec::new(); source.kernels.len()];
        for target in TARGETS {
            let code = nvrtc.compile(source, target).unwrap_or_else(|error| panic!("{error}"));
            assert!(code.bytes.starts_with(b"\x7fELF"), "{}, {target}: no cubin", source.name);
            let usages = usages(&code.log);
            let (mut found, mut listed): (Vec<_>, Vec<_>) =
                (usages.iter().map(|usage| usage.kernel.as_str()).collect(), source.kernels.to_vec());
            found.sort_unstable();
            listed.sort_unstable();
            assert_eq!(found, listed, "{}: kernels of the text, and of the table", source.name);
            for usage in usages {
                let Usage { kernel, stack_bytes, spill_bytes, .. } = &usage;
                assert_eq!((*stack_bytes, *spill_bytes), (0, 0), "{kernel}, {target}: bytes of stack and of spills");
                let at = source.kernels.iter().position(|name| name == kernel).expect("just compared");
                registers[at].push(usage.registers);
            }
        }
        for (kernel, registers) in source.kernels.iter().zip(registers) {
            eprintln!("{kernel:<32} {registers:?}");
        }
    }
}

#[test]
fn every_kernel_compiles_to_ptx_that_later_cards_can_take() {
    let Some(nvrtc) = compiler() else { return };
    // As code.rs reads it.
    let mut embedded = format!("{}\0", code::fingerprint()).into_bytes();
    for source in SOURCES {
        let code = nvrtc.compile(source, "compute_80").unwrap_or_else(|error| panic!("{error}"));
        embedded.extend(code.bytes.split(|&byte| byte == 0).next().unwrap_or_default());
        embedded.push(0);
        let text = String::from_utf8(code.bytes).expect("PTX is text");
        for kernel in source.kernels {
            assert!(text.contains(&format!(".visible .entry {kernel}(")), "{kernel} is not in the PTX");
        }
        // Order of sums: nothing is added by whoever comes first.
        let atomic = |word: &&str| word.starts_with("atom.") || word.starts_with("red.");
        assert_eq!(text.split_whitespace().find(atomic), None, "{}.cu has an atomic operation", source.name);
    }
    if std::env::var_os("IJEPA_WRITE_PTX").is_some_and(|wanted| wanted == "1") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/kernels.ptx.gz");
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        out.write_all(&embedded).and_then(|()| std::fs::write(path, out.finish()?)).expect("it can be written");
    }
}

#[test]
fn a_text_that_does_not_compile_is_refused_with_the_compilers_words() {
    let Some(nvrtc) = compiler() else { return };
    let source = ijepa_tensor::cuda::Source {
        name: "broken",
        text: "#include \"device.cuh\"\nKERNEL broken() { y = 1; }",
        kernels: &[],
    };
    let error = nvrtc.compile(source, "sm_90").expect_err("there is no y").to_string();
    assert!(error.contains("broken.cu does not compile for sm_90") && error.contains("\"y\" is undefined"), "{error}");
}
