//! How do luma and colour differences become red, green and blue? As libavif does it, which Pillow reads AVIF with: coarser colour is
//! interpolated between the centres of its samples, then the matrix, then 8 bits.

use super::container::Colours;

/// Two rows of coarser colour: that which a row of luma lies nearest to, and the next one, whose part is a quarter.
pub(super) struct Near<'a> {
    pub(super) near: &'a [u16],
    pub(super) far: &'a [u16],
}

/// Brings a row of colour of half as many columns to `out.len()`. Where there are as many rows as of luma, the two are one.
pub(super) fn interpolate(out: &mut [u16], rows: &Near) {
    let between = |x: usize| 3 * u32::from(rows.near[x]) + u32::from(rows.far[x]);
    let last = rows.near.len() - 1;
    for (x, out) in out.iter_mut().enumerate() {
        let beside = if x % 2 == 0 { (x / 2).saturating_sub(1) } else { (x / 2 + 1).min(last) };
        *out = ((3 * between(x / 2) + between(beside) + 8) / 16) as u16;
    }
}

/// From samples to colours.
pub(super) struct Matrix {
    kind: Kind,
    /// What a sample of luma is, between 0 and 1.
    luma: Vec<f32>,
    /// What a sample of a colour difference is, between −½ and ½.
    difference: Vec<f32>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The three planes are green, blue and red.
    Identity,
    YCgCo,
    /// Parts of red and blue in the luma.
    Parts(f32, f32),
}

impl Matrix {
    pub(super) fn new(colours: Colours, bits: u32) -> Result<Matrix, String> {
        let kind = match colours.matrix {
            0 => Kind::Identity,
            1 => Kind::Parts(0.2126, 0.0722),
            2 | 5 | 6 => Kind::Parts(0.299, 0.114), // BT.601, or nothing said
            4 => Kind::Parts(0.30, 0.11),
            7 => Kind::Parts(0.212, 0.087),
            8 => Kind::YCgCo,
            9 => Kind::Parts(0.2627, 0.0593),
            other => return Err(format!("matrix {other} of colours, which is not read")),
        };
        let step = 1 << (bits - 8);
        let most = (1 << bits) - 1;
        let (black, white, reach) =
            if colours.full_range { (0, most, most) } else { (16 * step, 219 * step, 224 * step) };
        let luma = |sample: i32| (sample - black) as f32 / white as f32;
        let difference = |sample: i32| (sample - 128 * step) as f32 / reach as f32;
        let difference = match kind {
            Kind::Identity => (0..=most).map(luma).collect(),
            _ => (0..=most).map(difference).collect(),
        };
        Ok(Matrix { kind, luma: (0..=most).map(luma).collect(), difference })
    }

    /// A row of grey.
    pub(super) fn grey(&self, out: &mut [u8], luma: &[u16]) {
        for (pixel, &y) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
            *pixel = [level(value(&self.luma, y)); 3];
        }
    }

    /// A row of colours, from rows of the three planes.
    pub(super) fn colours(&self, out: &mut [u8], [luma, u, v]: [&[u16]; 3]) {
        for (((pixel, &y), &u), &v) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma).zip(u).zip(v) {
            let (y, u, v) = (value(&self.luma, y), value(&self.difference, u), value(&self.difference, v));
            let rgb = match self.kind {
                Kind::Identity => [v, y, u],
                Kind::YCgCo => [y - u + v, y + u, y - u - v],
                Kind::Parts(of_red, of_blue) => {
                    let (red, blue) = (y + 2.0 * (1.0 - of_red) * v, y + 2.0 * (1.0 - of_blue) * u);
                    [red, (y - of_red * red - of_blue * blue) / (1.0 - of_red - of_blue), blue]
                }
            };
            *pixel = rgb.map(level);
        }
    }
}

/// The value of a sample, which has no more bits than the table has rows: a damaged one counts as the last.
fn value(table: &[f32], sample: u16) -> f32 {
    table[usize::from(sample).min(table.len() - 1)]
}

fn level(value: f32) -> u8 {
    (value * 255.0 + 0.5) as u8 // from 0 to 255, whatever the value is
}
