//! Where does the code of kernels come from? From PTX inside the program, which the driver compiles for its GPU and keeps for the next
//! time; from NVRTC where the driver is older than that PTX.

use super::driver::{self, Function, Gpu};
use super::nvrtc::{self, Nvrtc};
use super::{Error, HEADERS, SOURCES};
use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

/// All kernels for sm_80 and later, written by `cargo xtask cuda --write` (gzip): [`fingerprint`] of the texts, a zero byte, then the PTX of each of
/// [`SOURCES`], each with a zero byte behind it, as the driver wants it.
static PTX: &[u8] = include_bytes!("kernels.ptx.gz");

/// The first generation of cards whose tensor cores the kernels know: sm_80.
const OLDEST: i32 = 8;

/// What tells whether PTX was made of these kernels: FNV-1a over names and texts, as 16 hexadecimal digits.
pub fn fingerprint() -> String {
    let texts = HEADERS.into_iter().chain(SOURCES.iter().map(|source| (source.name, source.text)));
    let bytes = texts.flat_map(|(name, text)| name.bytes().chain([0]).chain(text.bytes()).chain([0]));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The PTX inside the program, and the fingerprint of the texts that it was made of.
///
/// # Panics
/// When the program's own file is damaged.
pub fn embedded() -> (String, Vec<Vec<u8>>) {
    let mut bytes = Vec::new();
    GzDecoder::new(PTX).read_to_end(&mut bytes).expect("kernels.ptx.gz is whole");
    let mut parts = bytes.split_inclusive(|&byte| byte == 0).map(<[u8]>::to_vec);
    let made_of = parts.next().expect("the fingerprint comes first");
    (String::from_utf8_lossy(made_of.strip_suffix(&[0]).unwrap_or(&made_of)).into_owned(), parts.collect())
}

/// All kernels, ready to start.
pub(super) fn load(gpu: &Rc<Gpu>) -> Result<HashMap<&'static str, Function>, Error> {
    let (major, minor) = gpu.capability();
    if major < OLDEST {
        return Err(Error::Old { capability: (major, minor) });
    }
    let (_, ptx) = embedded();
    let refused = match functions(gpu, &ptx) {
        Err(error) if error.is_refusal() => error,
        done => return Ok(done?),
    };
    match compiled(&format!("sm_{major}{minor}")) {
        Ok(code) => Ok(functions(gpu, &code)?),
        Err(error) => Err(Error::Code { refused, error }),
    }
}

fn compiled(target: &str) -> Result<Vec<Vec<u8>>, nvrtc::Error> {
    let nvrtc = Nvrtc::open()?;
    SOURCES.iter().map(|&source| Ok(nvrtc.compile(source, target)?.bytes)).collect()
}

fn functions(gpu: &Rc<Gpu>, code: &[Vec<u8>]) -> Result<HashMap<&'static str, Function>, driver::Error> {
    let mut functions = HashMap::new();
    for (source, code) in SOURCES.iter().zip(code) {
        let module = gpu.module(code)?;
        for &kernel in source.kernels {
            functions.insert(kernel, module.function(kernel)?);
        }
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ptx_inside_the_program_is_made_of_its_kernels() {
        let (made_of, parts) = embedded();
        assert_eq!(made_of, fingerprint(), "kernels have changed: run `cargo xtask cuda --write`");
        assert_eq!(parts.len(), SOURCES.len());
        for (source, ptx) in SOURCES.iter().zip(&parts) {
            let text = std::str::from_utf8(ptx).expect("PTX is text");
            for kernel in source.kernels {
                assert!(text.contains(&format!(".entry {kernel}(")), "{kernel}");
            }
        }
    }
}
