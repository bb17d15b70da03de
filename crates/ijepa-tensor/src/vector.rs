//! Loops that the compiler turns into vector code, compiled once for each instruction set and chosen at
//! run time, and the elementary functions that they use.

use std::sync::OnceLock;

/// Instruction sets that loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// What every CPU of the target has.
    Portable,
    /// 256-bit vectors and fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 128-bit vectors of 64-bit Arm.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Names a narrower instruction set than the widest.
const VARIABLE: &str = "IJEPA_CPU";

impl Isa {
    const ALL: &[Isa] = &[
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon,
        Isa::Portable,
    ];

    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    fn present(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            Isa::Portable => true,
        }
    }
}

/// Names of the instruction sets that this CPU has, widest first.
pub fn instruction_sets() -> Vec<&'static str> {
    Isa::ALL.iter().filter(|isa| isa.present()).map(|isa| isa.name()).collect()
}

/// Name of the instruction set in use: the widest, or the one that the environment variable `IJEPA_CPU` names.
///
/// # Errors
/// When the variable names none of [`instruction_sets`]; the widest is then in use.
pub fn instruction_set() -> Result<&'static str, String> {
    chosen().map(Isa::name)
}

fn chosen() -> Result<Isa, String> {
    let mut present = Isa::ALL.iter().copied().filter(|isa| isa.present());
    match std::env::var(VARIABLE) {
        Err(_) => Ok(present.next().unwrap_or(Isa::Portable)),
        Ok(name) => present.find(|isa| isa.name() == name).ok_or_else(|| {
            format!("{VARIABLE}={name}: expected one of {}, which this CPU has", instruction_sets().join(", "))
        }),
    }
}

/// The instruction set in use.
#[inline]
pub(crate) fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        chosen().unwrap_or_else(|_| Isa::ALL.iter().copied().find(|isa| isa.present()).unwrap_or(Isa::Portable))
    })
}

/// Compiles a function once for each instruction set; the call runs the widest that this CPU has.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                match $crate::vector::isa() {
                    // SAFETY: `isa` found these features on this CPU.
                    $crate::vector::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `isa` found these features on this CPU.
                    $crate::vector::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            portable($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Partial sums that a reduction keeps, so that it becomes vector code with a fixed order of additions.
pub(crate) const LANES: usize = 16;

/// Σ f(i) for i in 0..len, in `LANES` partial sums that are then added in pairs.
#[inline(always)]
pub(crate) fn sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len - len % LANES;
    let mut start = 0;
    while start < whole {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += f(start + lane);
        }
        start += LANES;
    }
    for i in whole..len {
        lanes[i - whole] += f(i);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest value; −∞ for an empty slice.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    for value in rest {
        lanes[0] = if *value > lanes[0] { *value } else { lanes[0] };
    }
    lanes.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

/// eˣ to 2 units in the last place, for x clamped to [−87, 88]; NaN stays NaN.
///
/// x = k ln 2 + r with |r| ≤ ln 2 / 2; eʳ by its Taylor sum to r⁷, whose rest is below 6e-9.
#[inline(always)]
#[allow(clippy::excessive_precision, clippy::manual_clamp)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    // ln 2 in two parts; the first has few bits, so k·LN_2_HIGH is exact.
    let r = clamped - k * 0.693_359_375 - k * -2.121_944_4e-4;
    let mut y = 1.0 / 5040.0;
    y = y * r + 1.0 / 720.0;
    y = y * r + 1.0 / 120.0;
    y = y * r + 1.0 / 24.0;
    y = y * r + 1.0 / 6.0;
    y = y * r + 0.5;
    y = y * r + 1.0;
    y = y * r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    y * scale
}

/// erf(x) to 5e-7: x·P(x²)/Q(x²) for |x| ≤ 3.925, beyond which f32 cannot tell it from ±1.
///
/// Coefficients: weighted least squares on Chebyshev points for the relative error (2e-8 in exact arithmetic).
#[inline(always)]
#[allow(clippy::manual_clamp, clippy::excessive_precision)]
pub(crate) fn erf(x: f32) -> f32 {
    let clamped = if x < -3.925 { -3.925 } else { x };
    let clamped = if clamped > 3.925 { 3.925 } else { clamped };
    let z = clamped * clamped;
    let mut p = 2.045_994_3e-6;
    p = p * z + 2.848_256_3e-4;
    p = p * z + 3.772_106_5e-3;
    p = p * z + 5.276_789_5e-2;
    p = p * z + 1.905_845_6e-1;
    p = p * z + std::f32::consts::FRAC_2_SQRT_PI;
    let mut q = 3.804_649_2e-5;
    q = q * z + 1.163_735_5e-3;
    q = q * z + 1.498_231_3e-2;
    q = q * z + 1.141_787_5e-1;
    q = q * z + 5.022_339_2e-1;
    q = q * z + 1.0;
    clamped * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}): relative error {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn erf_is_within_5e_minus_7() {
        for i in -60_000..=60_000 {
            let x = i as f32 / 10_000.0;
            let error = (f64::from(erf(x)) - libm::erf(f64::from(x))).abs();
            assert!(error < 5e-7, "erf({x}): error {error:e}");
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sum_and_max_agree_with_plain_loops() {
        for len in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..len).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            assert_eq!(sum(len, |i| values[i]), values.iter().sum::<f32>());
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
