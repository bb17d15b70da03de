//! How is a picture blurred? By a separable Gaussian whose standard deviation in pixels is what Pillow calls its radius; the
//! border repeats the edge pixels.

use crate::picture::Picture;

/// Blurs in place. Weights beyond three standard deviations are left out.
pub(super) fn gaussian(picture: &mut Picture, sigma: f32) {
    let reach = (3.0 * sigma).ceil() as isize;
    let mut kernel: Vec<f32> = (-reach..=reach).map(|x| (-0.5 * (x as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|weight| *weight /= sum);

    let (width, height) = (picture.width, picture.height);
    let stride = width * 3;
    let source: Vec<f32> = picture.rgb.iter().map(|&byte| f32::from(byte)).collect(); // (h, w, 3)
    let mut across = vec![0.0f32; source.len()]; // (h, w, 3)
    for (row, out) in source.chunks_exact(stride).zip(across.chunks_exact_mut(stride)) {
        for (&weight, offset) in kernel.iter().zip(-reach..) {
            for x in 0..width {
                let from = x.saturating_add_signed(offset).min(width - 1) * 3;
                for channel in 0..3 {
                    out[x * 3 + channel] += weight * row[from + channel];
                }
            }
        }
    }
    let mut sums = vec![0.0f32; stride]; // (w, 3)
    for (y, out) in picture.rgb.chunks_exact_mut(stride).enumerate() {
        sums.fill(0.0);
        for (&weight, offset) in kernel.iter().zip(-reach..) {
            let from = y.saturating_add_signed(offset).min(height - 1);
            for (sum, value) in sums.iter_mut().zip(&across[from * stride..][..stride]) {
                *sum += weight * value;
            }
        }
        for (byte, sum) in out.iter_mut().zip(&sums) {
            *byte = sum.round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat() {
        let mut picture = Picture::new(5, 4, vec![93; 60]);
        gaussian(&mut picture, 1.7);
        assert!(picture.rgb.iter().all(|&byte| byte == 93));
    }

    #[test]
    fn a_point_spreads_with_the_variance_asked_for() {
        let side = 31;
        let mut rgb = vec![0; side * side * 3];
        let centre = side / 2;
        // A bright column, so that bytes keep enough digits of the profile.
        for y in 0..side {
            rgb[(y * side + centre) * 3] = 255;
        }
        let mut picture = Picture::new(side, side, rgb);
        gaussian(&mut picture, 2.0);
        let row = &picture.rgb[centre * side * 3..][..side * 3];
        let weights: Vec<f64> = row.chunks_exact(3).map(|pixel| f64::from(pixel[0])).collect();
        let total: f64 = weights.iter().sum();
        let variance =
            weights.iter().enumerate().map(|(x, w)| w * (x as f64 - centre as f64).powi(2)).sum::<f64>() / total;
        assert!((total - 255.0).abs() < 6.0, "{total}");
        assert!((variance - 4.0).abs() < 0.3, "{variance}");
    }
}
