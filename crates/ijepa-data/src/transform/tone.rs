//! How are grey levels mapped to others? By a table of 256 numbers for each channel, in Pillow's arithmetic.

use crate::picture::Picture;

type Table = [u8; 256];

/// One table for all channels.
pub(super) fn map(picture: &mut Picture, table: impl Fn(u8) -> u8) {
    let table: Table = std::array::from_fn(|byte| table(byte as u8));
    picture.rgb.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

/// Stretches each channel so that its darkest level becomes 0 and its lightest 255.
pub(super) fn autocontrast(picture: &mut Picture) {
    map_channels(picture, |counts| {
        let (Some(low), Some(high)) = (counts.iter().position(|&n| n > 0), counts.iter().rposition(|&n| n > 0)) else {
            return unchanged();
        };
        if high <= low {
            return unchanged();
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|level| (level as f64 * scale + offset) as u8)
    });
}

/// Makes the levels of each channel about equally frequent.
pub(super) fn equalise(picture: &mut Picture) {
    map_channels(picture, |counts| {
        let last = counts.iter().rev().copied().find(|&n| n > 0).unwrap_or(0);
        // Whole pixels to each of 255 steps, those of the lightest level left out; a channel of one level has none.
        let step = (counts.iter().sum::<u64>() - last) / 255;
        if step == 0 {
            return unchanged();
        }
        let mut below = step / 2;
        std::array::from_fn(|level| {
            let mapped = below / step;
            below += counts[level];
            mapped.min(255) as u8
        })
    });
}

fn unchanged() -> Table {
    std::array::from_fn(|level| level as u8)
}

/// Each channel by the table that is made of how often it has each level.
fn map_channels(picture: &mut Picture, table: impl Fn(&[u64; 256]) -> Table) {
    let (pixels, _) = picture.rgb.as_chunks_mut::<3>();
    let mut counts = [[0u64; 256]; 3];
    for pixel in &*pixels {
        for (counts, &byte) in counts.iter_mut().zip(pixel) {
            counts[usize::from(byte)] += 1;
        }
    }
    let tables = counts.map(|counts| table(&counts));
    for pixel in pixels {
        for (byte, table) in pixel.iter_mut().zip(&tables) {
            *byte = table[usize::from(*byte)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greys(levels: &[u8]) -> Picture {
        Picture::new(levels.len(), 1, levels.iter().flat_map(|&level| [level; 3]).collect())
    }

    #[test]
    fn contrast_is_stretched_from_end_to_end_and_a_flat_channel_left_alone() {
        let mut picture = greys(&[50, 100, 150]);
        for pixel in picture.rgb.chunks_exact_mut(3) {
            pixel[2] = 77;
        }
        autocontrast(&mut picture);
        assert_eq!(picture.rgb, [0, 0, 77, 127, 127, 77, 255, 255, 77]);
    }

    #[test]
    fn equal_levels_are_spread_and_few_pixels_left_alone() {
        let mut few = greys(&[3, 9, 200]);
        equalise(&mut few);
        assert_eq!(few, greys(&[3, 9, 200]));
        // 512 pixels of two levels: 256 below the last, so a step is one pixel and the second level lands at 256, cut to 255.
        let levels: Vec<u8> = (0..512).map(|k| if k % 2 == 0 { 10 } else { 20 }).collect();
        let mut picture = greys(&levels);
        equalise(&mut picture);
        assert_eq!(picture.rgb[..6], [0, 0, 0, 255, 255, 255]);
    }
}
