//! Positions on a grid: the fixed table that training begins with, and a table for another size of image.

/// Fixed 2-D sine-cosine positions (n, d) of a grid of patches, as MAE's: the first half of the width tells the
/// column, the second the row; within a half sines stand before cosines, with wavelengths from 2π to 2π·10,000.
pub fn sin_cos(grid: (usize, usize), width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let mut table = Vec::with_capacity(grid.0 * grid.1 * width);
    for row in 0..grid.0 {
        for column in 0..grid.1 {
            for place in [column, row] {
                let angle = |i: usize| place as f64 / 10_000f64.powf(i as f64 / quarter as f64);
                table.extend((0..quarter).map(|i| angle(i).sin() as f32));
                table.extend((0..quarter).map(|i| angle(i).cos() as f32));
            }
        }
    }
    table
}

/// A table (n, d) on the grid `from`, interpolated to the grid `to`.
///
/// Bicubic with A = −0.75, samples at the centres of cells, the border repeated: PyTorch's `interpolate(mode="bicubic",
/// align_corners=False)`, which Hugging Face's `interpolate_pos_encoding` calls. The reference's own function takes the first patch
/// for a class token and fails (quirk Q14).
pub fn interpolate(table: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let width = table.len() / (from.0 * from.1);
    let (rows, columns) = (taps(from.0, to.0), taps(from.1, to.1));
    let mut result = Vec::with_capacity(to.0 * to.1 * width);
    for row in &rows {
        for column in &columns {
            result.extend((0..width).map(|i| {
                let value = |row: usize, column: usize| f64::from(table[(row * from.1 + column) * width + i]);
                let along = |row: usize| column.iter().map(|&(at, weight)| weight * value(row, at)).sum::<f64>();
                row.iter().map(|&(at, weight)| weight * along(at)).sum::<f64>() as f32
            }));
        }
    }
    result
}

/// For each of `to` places the four of `from` that it is made of, with their weights.
fn taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0; // |x| ≤ 1
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A; // 1 < |x| < 2
    let place = |i: usize| {
        let at = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let (first, t) = (at.floor(), at - at.floor());
        let clamped = |offset: f64| (first + offset).clamp(0.0, from as f64 - 1.0) as usize;
        [
            (clamped(-1.0), far(t + 1.0)),
            (clamped(0.0), near(t)),
            (clamped(1.0), near(1.0 - t)),
            (clamped(2.0), far(2.0 - t)),
        ]
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_to_the_same_grid_changes_nothing() {
        let table = sin_cos((3, 5), 16);
        let same = interpolate(&table, (3, 5), (3, 5));
        assert!(table.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn interpolation_agrees_with_numbers_of_pytorch() {
        // torch.nn.functional.interpolate(torch.tensor([[[[0., 1., 4.], [9., 16., 25.]]]]), size=(3, 4), mode="bicubic")
        let expected = [
            -0.815_643_5,
            -0.747_121_45,
            0.643_931,
            2.355_031_7,
            4.212_890_6,
            6.399_414,
            11.101_563,
            14.930_664,
            9.241_423,
            13.545_948,
            21.559_193,
            27.506_296,
        ];
        let got = interpolate(&[0.0, 1.0, 4.0, 9.0, 16.0, 25.0], (2, 3), (3, 4));
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        }
    }
}
