//! What was looked at? Rows of pictures, with masks drawn over them.
//!
//! A row has first pictures, set apart (a query, a whole image), and the rest (its neighbours, its masks). Pictures are PNG
//! data URIs; masks are SVG in units of patches laid over them, sharp at any size.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ijepa_data::Picture;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::html::escape;

/// Pictures that belong together.
pub(crate) struct Row {
    pub(crate) first: Vec<Tile>,
    pub(crate) rest: Vec<Tile>,
}

/// A picture with a line below it.
pub(crate) struct Tile {
    pub(crate) picture: Picture,
    pub(crate) caption: String,
    pub(crate) overlay: Option<Overlay>,
}

/// Sets of patches, numbered row by row of the grid.
pub(crate) struct Overlay {
    /// Rows and columns of the grid.
    pub(crate) grid: (usize, usize),
    /// Patches that are covered.
    pub(crate) hidden: Vec<u32>,
    /// Sets that are tinted and outlined, each in its colour.
    pub(crate) blocks: Vec<Vec<u32>>,
}

const COLOURS: usize = 6;

/// The row.
pub(super) fn html(row: &Row) -> String {
    let tiles = |tiles: &[Tile]| tiles.iter().map(tile).collect::<String>();
    format!(
        "<div class=\"row\">\n<div class=\"first\">\n{}</div>\n<div class=\"rest\">\n{}</div>\n</div>\n",
        tiles(&row.first),
        tiles(&row.rest)
    )
}

fn tile(tile: &Tile) -> String {
    let caption = escape(&tile.caption);
    let Picture { width, height, .. } = tile.picture;
    let overlay = tile.overlay.as_ref().map_or_else(String::new, overlay);
    format!(
        "<figure class=\"tile\"><div><img src=\"{}\" width=\"{width}\" height=\"{height}\" alt=\"{caption}\">{overlay}</div>\
         <figcaption>{caption}</figcaption></figure>\n",
        data_uri(&tile.picture)
    )
}

/// The picture as `data:image/png;base64,…`.
fn data_uri(picture: &Picture) -> String {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive);
    encoder
        .write_image(&picture.rgb, picture.width as u32, picture.height as u32, ExtendedColorType::Rgb8)
        .expect("a picture has three bytes a pixel and memory takes all bytes");
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

fn overlay(overlay: &Overlay) -> String {
    let (rows, columns) = overlay.grid;
    let mut out = format!("<svg viewBox=\"0 0 {columns} {rows}\" preserveAspectRatio=\"none\">");
    let _ = write!(out, "<path class=\"hidden\" d=\"{}\"/>", squares(&overlay.hidden, columns));
    for (i, block) in overlay.blocks.iter().enumerate() {
        let colour = i % COLOURS;
        let _ = write!(out, "<path class=\"tint c{colour}\" d=\"{}\"/>", squares(block, columns));
        let _ = write!(out, "<path class=\"outline c{colour}\" d=\"{}\"/>", border(block, columns));
    }
    out.push_str("</svg>");
    out
}

/// Path data of the patches' squares.
fn squares(patches: &[u32], columns: usize) -> String {
    let place = |patch: &u32| (*patch as usize % columns.max(1), *patch as usize / columns.max(1));
    patches.iter().map(place).map(|(x, y)| format!("M{x} {y}h1v1h-1z")).collect()
}

/// Path data of the sides of patches that have no neighbour in the set.
fn border(patches: &[u32], columns: usize) -> String {
    let columns = columns.max(1) as i64;
    let holds = |x: i64, y: i64| {
        (0..columns).contains(&x) && y >= 0 && patches.iter().any(|&p| i64::from(p) == y * columns + x)
    };
    let mut out = String::new();
    for &patch in patches {
        let (x, y) = (i64::from(patch) % columns, i64::from(patch) / columns);
        let sides =
            [((0, -1), (x, y, "h1")), ((0, 1), (x, y + 1, "h1")), ((-1, 0), (x, y, "v1")), ((1, 0), (x + 1, y, "v1"))];
        for ((dx, dy), (left, top, stroke)) in sides {
            if !holds(x + dx, y + dy) {
                let _ = write!(out, "M{left} {top}{stroke}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_picture_is_the_picture() {
        let picture = Picture::new(3, 2, (0..18).map(|value| value * 14).collect());
        let uri = data_uri(&picture);
        let encoded = uri.strip_prefix("data:image/png;base64,").expect("a PNG data URI");
        let png = STANDARD.decode(encoded).expect("base64");
        let decoded = image::load_from_memory(&png).expect("a PNG").to_rgb8();
        assert_eq!((decoded.dimensions(), decoded.into_raw()), ((3, 2), picture.rgb));
    }

    #[test]
    fn a_rectangle_is_outlined_once_around() {
        // Patches 5 6 / 9 10 of a grid of four columns: two by two, perimeter eight.
        let path = border(&[5, 6, 9, 10], 4);
        assert_eq!(path.matches('M').count(), 8);
        assert!(!path.contains("M2 2"), "no stroke starts at its middle: {path}");
    }

    #[test]
    fn blocks_at_opposite_sides_of_the_grid_are_not_neighbours() {
        assert_eq!(border(&[3, 4], 4).matches('M').count(), 8);
    }
}
