//! How far is a point from the edge of a shape? Signed distances of six shapes of area 1, negative inside, with the direction
//! that leads out. Distances to polygons are those to the nearest edge, signed by the even-odd rule.

use std::sync::LazyLock;

/// The outlines, in the order of their class numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Shape {
    Disc = 0,
    Square = 1,
    Triangle = 2,
    Star = 3,
    Ring = 4,
    Cross = 5,
}

/// Distance to the edge and the unit direction in which it grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) distance: f32,
    pub(super) out: (f32, f32),
}

const DISC_RADIUS: f32 = 0.564_190; // π·r² = 1
const RING_RADIUS: f32 = 0.675_6; // π·(1 − 0.55²)·r² = 1
const RING_HOLE: f32 = 0.55 * RING_RADIUS;

static SQUARE: [(f32, f32); 4] = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)];
/// A plus of five squares: 5·(2w)² = 1.
static CROSS: [(f32, f32); 12] = {
    const W: f32 = 0.223_607;
    const L: f32 = 3.0 * W;
    [(-W, -L), (W, -L), (W, -W), (L, -W), (L, W), (W, W), (W, L), (-W, L), (-W, W), (-L, W), (-L, -W), (-W, -W)]
};
/// Equilateral: ¾·√3·r² = 1 for the circle through its corners.
static TRIANGLE: LazyLock<Vec<(f32, f32)>> = LazyLock::new(|| corners(3, |_| 0.877_383));
/// Five points, the inner corners half as far out as the outer ones: 5·½·sin 36°·r² = 1.
static STAR: LazyLock<Vec<(f32, f32)>> =
    LazyLock::new(|| corners(10, |corner| if corner % 2 == 0 { 0.824_9 } else { 0.5 * 0.824_9 }));

impl Shape {
    pub(super) const ALL: [Shape; 6] =
        [Shape::Disc, Shape::Square, Shape::Triangle, Shape::Star, Shape::Ring, Shape::Cross];

    /// Farthest point from the centre.
    pub(super) fn reach(self) -> f32 {
        match self {
            Shape::Disc => DISC_RADIUS,
            Shape::Square => 0.707_2,
            Shape::Triangle => 0.877_5,
            Shape::Star => 0.825,
            Shape::Ring => RING_RADIUS,
            Shape::Cross => 0.707_2,
        }
    }

    /// Width of the rounded rim: the disc becomes a ball, the ring a torus, the others rounded plates.
    pub(super) fn rim(self) -> f32 {
        match self {
            Shape::Disc => DISC_RADIUS,
            Shape::Square => 0.22,
            Shape::Triangle => 0.2,
            Shape::Star => 0.2,
            Shape::Ring => (RING_RADIUS - RING_HOLE) / 2.0,
            Shape::Cross => 0.16,
        }
    }

    /// How far the shape, turned by `angle`, reaches below its centre.
    pub(super) fn lowest(self, angle: f32) -> f32 {
        let (sin, cos) = angle.sin_cos();
        match self {
            Shape::Disc | Shape::Ring => self.reach(),
            _ => self.outline().iter().map(|&(u, v)| sin * u + cos * v).fold(0.0, f32::max),
        }
    }

    pub(super) fn distance(self, u: f32, v: f32) -> Edge {
        match self {
            Shape::Disc => {
                let from_centre = u.hypot(v).max(1e-6);
                Edge { distance: from_centre - DISC_RADIUS, out: (u / from_centre, v / from_centre) }
            }
            Shape::Ring => {
                let from_centre = u.hypot(v).max(1e-6);
                let half_width = (RING_RADIUS - RING_HOLE) / 2.0;
                let from_middle = from_centre - (RING_RADIUS + RING_HOLE) / 2.0;
                let side = from_middle.signum() / from_centre;
                Edge { distance: from_middle.abs() - half_width, out: (u * side, v * side) }
            }
            _ => polygon(self.outline(), u, v),
        }
    }

    fn outline(self) -> &'static [(f32, f32)] {
        match self {
            Shape::Disc | Shape::Ring => &[],
            Shape::Square => &SQUARE,
            Shape::Triangle => &TRIANGLE,
            Shape::Star => &STAR,
            Shape::Cross => &CROSS,
        }
    }
}

fn corners(count: usize, radius: impl Fn(usize) -> f32) -> Vec<(f32, f32)> {
    (0..count)
        .map(|corner| {
            let angle = std::f32::consts::TAU * corner as f32 / count as f32;
            (radius(corner) * angle.sin(), -radius(corner) * angle.cos())
        })
        .collect()
}

fn polygon(outline: &[(f32, f32)], u: f32, v: f32) -> Edge {
    let mut nearest = (f32::INFINITY, 0.0, 0.0);
    let mut inside = false;
    let mut from = outline[outline.len() - 1];
    for &to in outline {
        let (edge_u, edge_v) = (to.0 - from.0, to.1 - from.1);
        let (du, dv) = (u - from.0, v - from.1);
        let along = ((du * edge_u + dv * edge_v) / (edge_u * edge_u + edge_v * edge_v)).clamp(0.0, 1.0);
        let (off_u, off_v) = (du - along * edge_u, dv - along * edge_v);
        let squared = off_u * off_u + off_v * off_v;
        if squared < nearest.0 {
            nearest = (squared, off_u, off_v);
        }
        if (from.1 > v) != (to.1 > v) && u < from.0 + (v - from.1) * edge_u / edge_v {
            inside = !inside;
        }
        from = to;
    }
    let length = nearest.0.sqrt().max(1e-6);
    let sign = if inside { -1.0 } else { 1.0 };
    Edge { distance: sign * length, out: (sign * nearest.1 / length, sign * nearest.2 / length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_area_one_and_stays_within_its_reach() {
        let steps = 400;
        for shape in Shape::ALL {
            let mut inside = 0;
            for i in 0..steps * steps {
                let place = |k: usize| (k as f32 + 0.5) / steps as f32 * 2.0 - 1.0;
                let (u, v) = (place(i % steps), place(i / steps));
                if shape.distance(u, v).distance < 0.0 {
                    inside += 1;
                    assert!(u.hypot(v) <= shape.reach(), "{shape:?}");
                }
            }
            let area = 4.0 * inside as f32 / (steps * steps) as f32;
            assert!((area - 1.0).abs() < 0.01, "{shape:?} has area {area}");
        }
    }

    #[test]
    fn distance_grows_by_a_step_in_the_direction_that_leads_out() {
        for shape in Shape::ALL {
            for (u, v) in [(0.31, 0.22), (-0.4, 0.1), (0.05, -0.6), (0.8, 0.7)] {
                let edge = shape.distance(u, v);
                let step = 1e-3;
                let further = shape.distance(u + step * edge.out.0, v + step * edge.out.1);
                assert!((further.distance - edge.distance - step).abs() < 1e-4, "{shape:?} at ({u}, {v})");
            }
        }
    }
}
