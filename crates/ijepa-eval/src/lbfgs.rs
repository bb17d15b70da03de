//! Where is the minimum of a smooth convex function?
//!
//! Limited-memory BFGS (Nocedal 1980; Nocedal & Wright 2006, algorithm 7.4) whose initial inverse Hessian is a given
//! preconditioner P scaled by γ = sᵀy / yᵀPy, with a bisecting search for the weak Wolfe conditions (Lewis & Overton 2013),
//! which a function bounded below always meets. It stops when the expected gain ½γ gᵀPg is below the tolerance.

use std::collections::VecDeque;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Directions tried at most.
    pub(crate) iterations: usize,
    /// Expected gain, in units of the function, that is not worth another iteration.
    pub(crate) tolerance: f64,
}

/// Where the search ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Minimum {
    pub(crate) value: f64,
    pub(crate) iterations: usize,
    /// Whether the tolerance was met.
    pub(crate) converged: bool,
}

/// Pairs of steps kept.
const MEMORY: usize = 10;
const SUFFICIENT_DECREASE: f64 = 1e-4;
const CURVATURE: f64 = 0.9;
/// Share of |f| that may be rounding when scores are in single precision.
const ROUNDING: f64 = 1e-7;
const TRIALS: usize = 30;

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    product: f64, // stepᵀ change, positive
}

/// Moves `x` to the minimum of a function.
///
/// `objective(x, gradient)` returns the value and writes the gradient; `precondition(v, out)` writes P·v for a positive
/// definite P.
pub(crate) fn minimise(
    x: &mut [f64],
    mut objective: impl FnMut(&[f64], &mut [f64]) -> f64,
    precondition: impl Fn(&[f64], &mut [f64]),
    limits: Limits,
) -> Minimum {
    let len = x.len();
    let mut gradient = vec![0.0; len];
    let mut scaled = vec![0.0; len]; // P · gradient
    let mut direction = vec![0.0; len];
    let mut history = VecDeque::<Pair>::new();
    let mut gamma = 1.0;
    let mut value = objective(x, &mut gradient);
    precondition(&gradient, &mut scaled);
    for iteration in 0..limits.iterations {
        if 0.5 * gamma * dot(&gradient, &scaled) <= limits.tolerance {
            return Minimum { value, iterations: iteration, converged: true };
        }
        two_loops(&mut direction, &gradient, &history, gamma, &precondition);
        let mut slope = dot(&gradient, &direction);
        if slope.is_nan() || slope >= 0.0 {
            history.clear();
            direction.iter_mut().zip(&scaled).for_each(|(direction, scaled)| *direction = -scaled);
            slope = -dot(&gradient, &scaled);
        }
        let Some((reached, next, next_gradient)) = search(x, value, slope, &direction, &mut objective) else {
            return Minimum { value, iterations: iteration, converged: false };
        };
        let mut next_scaled = vec![0.0; len];
        precondition(&next_gradient, &mut next_scaled);
        let step: Vec<f64> = next.iter().zip(&*x).map(|(next, x)| next - x).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(next, now)| next - now).collect();
        let product = dot(&step, &change);
        // P is linear, so P·change costs nothing more.
        let norm: f64 =
            change.iter().zip(next_scaled.iter().zip(&scaled)).map(|(c, (next, now))| c * (next - now)).sum();
        if product > 0.0 && norm > 0.0 {
            gamma = product / norm;
            if history.len() == MEMORY {
                history.pop_front();
            }
            history.push_back(Pair { step, change, product });
        }
        x.copy_from_slice(&next);
        (value, gradient, scaled) = (reached, next_gradient, next_scaled);
    }
    let converged = 0.5 * gamma * dot(&gradient, &scaled) <= limits.tolerance;
    Minimum { value, iterations: limits.iterations, converged }
}

/// direction = −H · gradient, H the inverse Hessian that the history implies.
fn two_loops(
    direction: &mut [f64],
    gradient: &[f64],
    history: &VecDeque<Pair>,
    gamma: f64,
    precondition: &impl Fn(&[f64], &mut [f64]),
) {
    let mut rest = gradient.to_vec();
    let mut alphas = Vec::with_capacity(history.len());
    for pair in history.iter().rev() {
        let alpha = dot(&pair.step, &rest) / pair.product;
        add_scaled(&mut rest, -alpha, &pair.change);
        alphas.push(alpha);
    }
    precondition(&rest, direction);
    direction.iter_mut().for_each(|value| *value *= gamma);
    for (pair, alpha) in history.iter().zip(alphas.iter().rev()) {
        let beta = dot(&pair.change, direction) / pair.product;
        add_scaled(direction, alpha - beta, &pair.step);
    }
    direction.iter_mut().for_each(|value| *value = -*value);
}

/// A point along the direction that meets the weak Wolfe conditions, its value and gradient; none when rounding hides them.
fn search(
    x: &[f64],
    value: f64,
    slope: f64,
    direction: &[f64],
    objective: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<(f64, Vec<f64>, Vec<f64>)> {
    let (mut low, mut high, mut length) = (0.0, f64::INFINITY, 1.0);
    let mut gradient = vec![0.0; x.len()];
    for _ in 0..TRIALS {
        let point: Vec<f64> = x.iter().zip(direction).map(|(x, direction)| x + length * direction).collect();
        let reached = objective(&point, &mut gradient);
        let reached_slope = dot(&gradient, direction);
        // Where rounding hides the decrease the slope still shows it (Hager & Zhang 2005, approximate Wolfe).
        let enough = reached <= value + SUFFICIENT_DECREASE * length * slope
            || (reached <= value + ROUNDING * value.abs()
                && reached_slope <= (2.0 * SUFFICIENT_DECREASE - 1.0) * slope);
        if !enough {
            high = length;
        } else if reached_slope < CURVATURE * slope {
            low = length;
        } else {
            return Some((reached, point, gradient));
        }
        length = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    None
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(out: &mut [f64], scale: f64, values: &[f64]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out += scale * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(v: &[f64], out: &mut [f64]) {
        out.copy_from_slice(v);
    }

    #[test]
    fn finds_the_minimum_of_an_ill_conditioned_quadratic() {
        let scales: Vec<f64> = (0..20).map(|i| 10f64.powf(-f64::from(i) / 5.0)).collect();
        let objective = |x: &[f64], g: &mut [f64]| {
            let mut value = 0.0;
            for i in 0..x.len() {
                g[i] = scales[i] * (x[i] - 1.0);
                value += 0.5 * scales[i] * (x[i] - 1.0) * (x[i] - 1.0);
            }
            value
        };
        let mut x = vec![0.0; 20];
        let plain = minimise(&mut x, objective, identity, Limits { iterations: 500, tolerance: 1e-14 });
        assert!(plain.converged);
        assert!(x.iter().all(|x| (x - 1.0).abs() < 1e-3), "{x:?}");

        let exact = |v: &[f64], out: &mut [f64]| (0..20).for_each(|i| out[i] = v[i] / scales[i]);
        let mut x = vec![0.0; 20];
        let scaled = minimise(&mut x, objective, exact, Limits { iterations: 500, tolerance: 1e-14 });
        assert!(scaled.iterations <= 2, "the inverse Hessian reaches it at once, took {}", scaled.iterations);
    }

    #[test]
    fn finds_the_valley_of_rosenbrock() {
        let objective = |x: &[f64], g: &mut [f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            g[0] = -2.0 * a - 400.0 * x[0] * b;
            g[1] = 200.0 * b;
            a * a + 100.0 * b * b
        };
        let mut x = vec![-1.2, 1.0];
        let found = minimise(&mut x, objective, identity, Limits { iterations: 200, tolerance: 1e-16 });
        assert!(found.converged && (x[0] - 1.0).abs() < 1e-5 && (x[1] - 1.0).abs() < 1e-5, "{x:?} {found:?}");
    }
}
