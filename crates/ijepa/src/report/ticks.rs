//! Which values stand beside an axis, and how are they written?

/// Values of 1, 2 or 5 times a power of ten inside a range, about `count` of them.
pub(super) fn linear(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count.max(1) as f64;
    if raw.is_nan() || raw <= 0.0 || !raw.is_finite() {
        return vec![low];
    }
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= raw * 0.999).unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    // Multiples of the step, not sums: no rounding piles up and zero is zero.
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Values for a logarithmic axis over a positive range: powers of ten, with 2 and 5 between them where there is room.
pub(super) fn logarithmic(low: f64, high: f64, count: usize) -> Vec<f64> {
    let (first, last) = (low.log10(), high.log10());
    if last - first < 1.0 {
        return linear(low, high, count);
    }
    let between: &[f64] = if last - first < 0.4 * count as f64 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let skip = ((last - first) / count.max(1) as f64).ceil().max(1.0) as usize;
    let powers = (first.floor() as i32..=last.floor() as i32).step_by(skip);
    let inside = |value: &f64| *value >= low * (1.0 - 1e-9) && *value <= high * (1.0 + 1e-9);
    powers.flat_map(|power| between.iter().map(move |m| m * 10f64.powi(power))).filter(inside).collect()
}

/// A tick as text, with as many digits as its neighbours need.
pub(super) fn labels(ticks: &[f64]) -> Vec<String> {
    let gaps = || ticks.windows(2).map(|pair| pair[1] - pair[0]);
    let gap = gaps().fold(f64::INFINITY, f64::min);
    // On a logarithmic axis the smallest gap would give 10 the digits of 0.1.
    let is_even = gaps().all(|other| other < 1.01 * gap);
    let top = ticks.iter().fold(0.0f64, |top, tick| top.max(tick.abs()));
    let label = |&tick: &f64| {
        if tick == 0.0 {
            "0".to_owned()
        } else if !(1e-3..1e7).contains(&top) || (gap < 1e-5 && top < 1.0) {
            short(tick)
        } else {
            let finest = if !gap.is_finite() {
                1e-3
            } else if is_even {
                gap
            } else {
                tick.abs()
            };
            let digits = (-finest.log10() - 1e-9).ceil().max(0.0) as usize;
            thousands(&format!("{tick:.digits$}"))
        }
    };
    ticks.iter().map(label).collect()
}

/// A single value with up to four significant digits.
pub(super) fn value(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "not finite".to_owned();
    }
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e7).contains(&size) {
        return short(value);
    }
    if value.fract() == 0.0 {
        return thousands(&format!("{value:.0}"));
    }
    let digits = (3 - size.log10().floor() as i32).max(0) as usize;
    thousands(trimmed(&format!("{value:.digits$}")))
}

/// Mantissa and exponent, "2.5e-6".
fn short(value: f64) -> String {
    let text = format!("{value:.2e}");
    let (mantissa, exponent) = text.split_once('e').expect("the exponent form has an e");
    format!("{}e{exponent}", trimmed(mantissa))
}

/// Without zeros that say nothing.
fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Commas between the thousands of a plain decimal number.
fn thousands(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ticks: &[f64]) -> Vec<String> {
        labels(ticks)
    }

    #[test]
    fn linear_ticks_are_round_and_inside() {
        assert_eq!(texts(&linear(0.0, 12_000.0, 5)), ["0", "5,000", "10,000"]);
        assert_eq!(texts(&linear(0.11, 0.29, 4)), ["0.15", "0.20", "0.25"]);
        assert_eq!(texts(&linear(-1.0, 1.0, 4)), ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        assert_eq!(texts(&linear(0.0, 1e-3, 4)), ["0", "0.0005", "0.0010"]);
        assert_eq!(texts(&linear(0.0, 4e-6, 4)), ["0", "1e-6", "2e-6", "3e-6", "4e-6"]);
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_and_fill_short_ranges() {
        assert_eq!(texts(&logarithmic(0.02, 30.0, 6)), ["0.1", "1", "10"]);
        assert_eq!(texts(&logarithmic(0.1, 5.0, 6)), ["0.1", "0.2", "0.5", "1", "2", "5"]);
        assert_eq!(logarithmic(1.0, 1e12, 6).len(), 7);
        assert_eq!(texts(&logarithmic(0.2, 0.5, 3)), ["0.2", "0.3", "0.4", "0.5"]);
    }

    #[test]
    fn a_range_without_extent_has_one_tick() {
        assert_eq!(linear(3.0, 3.0, 5), [3.0]);
        assert_eq!(linear(f64::NAN, 3.0, 5).len(), 1);
    }

    #[test]
    fn values_have_at_most_four_digits() {
        assert_eq!(value(0.041_237), "0.04124");
        assert_eq!(value(1_234_567.0), "1,234,567");
        assert_eq!(value(-12.0), "-12");
        assert_eq!(value(0.4), "0.4");
        assert_eq!(value(2.5e-6), "2.5e-6");
        assert_eq!(value(0.0), "0");
        assert_eq!(value(f64::NAN), "not finite");
        assert_eq!(value(1e12), "1e12");
    }
}
