//! How does a scene look? Sky, hills, a textured plane with haze, shadows, and shaded objects from far to near.
//!
//! Edges are anti-aliased by the signed distance: an object covers ½ − distance of a pixel, cut to 0..1. Objects have rounded
//! rims (a quarter circle of height over the distance from the edge) lit by one distant light (Lambert) with a highlight
//! (Blinn). Colours are mixed in sRGB, as painted.

use rand_chacha::ChaCha8Rng;

use super::{Layout, Object, SCENE_SIDE};
use crate::key::{below, between, uniform};
use crate::picture::Picture;

type Colour = [f32; 3];

const PIXEL: f32 = 1.0 / SCENE_SIDE as f32;

/// Hues of sky and haze, of hills, and of the ground: out of doors they are blue, green to blue, and of sand, earth and grass.
const SKY: (f32, f32) = (0.5, 0.66);
const HILLS: (f32, f32) = (0.25, 0.6);
const EARTH: (f32, f32) = (0.04, 0.3);

/// What all of a scene shares.
struct Air {
    haze: Colour,
    /// Unit vector to the light: right, down, towards the viewer.
    light: [f32; 3],
}

/// Paints a scene; the rest of its stream of draws decides colours, light and clutter.
pub(super) fn render(layout: &Layout, rng: &mut ChaCha8Rng) -> Picture {
    let haze_hue = draw(rng, SKY.0, SKY.1);
    let air = Air { haze: hsv(haze_hue, draw(rng, 0.03, 0.15), draw(rng, 0.75, 0.92)), light: draw_light(rng) };
    let mut canvas = vec![[0.0; 3]; SCENE_SIDE * SCENE_SIDE]; // (row, column)
    paint_sky(&mut canvas, layout.horizon, &air, rng);
    paint_ground(&mut canvas, layout.horizon, &air, rng);
    for object in layout.objects.iter().rev() {
        paint_shadow(&mut canvas, object, &air);
    }
    for object in layout.objects.iter().rev() {
        paint_object(&mut canvas, object, &air, rng);
    }
    let byte = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
    let rgb = canvas.into_iter().flatten().map(byte).collect();
    Picture::new(SCENE_SIDE, SCENE_SIDE, rgb)
}

fn draw_light(rng: &mut ChaCha8Rng) -> [f32; 3] {
    let (x, y, z) = (draw(rng, -0.9, 0.9), draw(rng, -0.9, -0.4), draw(rng, 0.45, 0.8));
    let length = (x * x + y * y + z * z).sqrt();
    [x / length, y / length, z / length]
}

/// A gradient down to the haze, soft clouds, and up to two lines of hills.
fn paint_sky(canvas: &mut [Colour], horizon: f32, air: &Air, rng: &mut ChaCha8Rng) {
    let top = hsv(draw(rng, SKY.0, SKY.1), draw(rng, 0.15, 0.5), draw(rng, 0.6, 0.9));
    let clouds = if uniform(rng) < 0.6 { draw(rng, 0.15, 0.6) } else { 0.0 };
    let salt = below(rng, 1 << 32) as u32;
    let hills: Vec<Hills> = (0..below(rng, 3))
        .map(|line| Hills {
            height: draw(rng, 0.03, 0.12),
            waves: [draw(rng, 4.0, 9.0), draw(rng, 10.0, 22.0)],
            phases: [draw(rng, 0.0, 6.3), draw(rng, 0.0, 6.3)],
            colour: mix(
                hsv(draw(rng, HILLS.0, HILLS.1), 0.3, draw(rng, 0.35, 0.55)),
                air.haze,
                0.7 - 0.25 * line as f32,
            ),
        })
        .collect();
    let rows = (horizon / PIXEL).ceil() as usize;
    for row in 0..rows {
        let y = (row as f32 + 0.5) * PIXEL;
        let gradient = mix(top, air.haze, (y / horizon).min(1.0).powf(1.3));
        for col in 0..SCENE_SIDE {
            let x = (col as f32 + 0.5) * PIXEL;
            let mut colour = gradient;
            if clouds > 0.0 {
                let density = 0.65 * noise(x * 3.5, y * 9.0, salt) + 0.35 * noise(x * 8.0, y * 20.0, salt ^ 1);
                colour = mix(colour, [1.0; 3], clouds * ((density - 0.5) * 4.0).clamp(0.0, 1.0));
            }
            for line in &hills {
                let ridge = horizon - line.height * line.at(x);
                colour = mix(colour, line.colour, ((y - ridge) / PIXEL + 0.5).clamp(0.0, 1.0));
            }
            canvas[row * SCENE_SIDE + col] = colour;
        }
    }
}

struct Hills {
    height: f32,
    waves: [f32; 2],
    phases: [f32; 2],
    colour: Colour,
}

impl Hills {
    /// Height over `x`, 0 to 1.
    fn at(&self, x: f32) -> f32 {
        let wave = |k: usize| (self.waves[k] * x + self.phases[k]).sin();
        0.5 + 0.36 * wave(0) + 0.14 * wave(1)
    }
}

/// What is drawn on the plane.
enum Ground {
    Plain,
    /// Boards that run away from the viewer.
    Boards,
    Tiles,
}

/// The plane with its pattern in perspective, and pebbles; all of it fades into the haze.
fn paint_ground(canvas: &mut [Colour], horizon: f32, air: &Air, rng: &mut ChaCha8Rng) {
    let base = hsv(draw(rng, EARTH.0, EARTH.1), draw(rng, 0.1, 0.35), draw(rng, 0.42, 0.65));
    let ground = match below(rng, 4) {
        0 => Ground::Boards,
        1 => Ground::Tiles,
        _ => Ground::Plain,
    };
    let (contrast, grain) = (draw(rng, 0.1, 0.24), draw(rng, 0.06, 0.22));
    let spacing = draw(rng, 0.16, 0.34);
    let shift = draw(rng, 0.0, 1.0);
    let salt = below(rng, 1 << 32) as u32;
    let first_row = (horizon / PIXEL).floor() as usize;
    for row in first_row..SCENE_SIDE {
        let y = (row as f32 + 0.5) * PIXEL;
        let depth = super::CAMERA_HEIGHT as f32 / (y - horizon).max(0.004);
        let haze = haze_share(depth);
        let above = (0.5 - (y - horizon) / PIXEL).clamp(0.0, 1.0); // share of the row that is still sky
        // A pattern finer than two pixels is left to its mean.
        let pattern = contrast * (spacing / depth / PIXEL / 2.0 - 1.0).clamp(0.0, 1.0);
        for col in 0..SCENE_SIDE {
            let x = ((col as f32 + 0.5) * PIXEL - 0.5) * depth;
            let stripe = |place: f32| 4.0 * ((place / spacing + shift).rem_euclid(1.0) - 0.5).abs() - 1.0;
            let sharp = |wave: f32| (wave * spacing / depth / PIXEL).clamp(-1.0, 1.0);
            let mark = match ground {
                Ground::Plain => 0.0,
                Ground::Boards => pattern * sharp(stripe(x) + 0.7),
                Ground::Tiles => pattern * sharp(stripe(x)) * sharp(stripe(depth)),
            };
            let rough = grain * (noise(x * 14.0, depth * 14.0, salt) + noise(x * 33.0, depth * 33.0, salt ^ 1) - 1.0);
            let lit = 1.0 + mark + rough / depth.max(1.0);
            let colour = mix(base.map(|value| value * lit), air.haze, haze);
            let pixel = &mut canvas[row * SCENE_SIDE + col];
            *pixel = mix(colour, *pixel, above);
        }
    }
    for _ in 0..below(rng, 22) {
        let depth = draw(rng, 0.95, 3.2);
        let (x, y) = (draw(rng, 0.0, 1.0), horizon + super::CAMERA_HEIGHT as f32 / depth);
        let radius = draw(rng, 0.012, 0.03) / depth;
        let shade = if uniform(rng) < 0.5 { draw(rng, 0.6, 0.85) } else { draw(rng, 1.1, 1.3) };
        let colour = mix(base.map(|value| value * shade), air.haze, haze_share(depth));
        for_pixels_around(x, y, (radius + PIXEL, radius + PIXEL), |pixel, dx, dy| {
            let cover = (0.5 - (dx.hypot(1.5 * dy) - radius) / PIXEL).clamp(0.0, 1.0);
            canvas[pixel] = mix(canvas[pixel], colour, 0.8 * cover);
        });
    }
}

/// A soft ellipse on the ground, away from the light.
fn paint_shadow(canvas: &mut [Colour], object: &Object, air: &Air) {
    let wide = object.size * (0.62 + 0.35 * air.light[0].abs());
    let flat = 0.2 * object.size;
    let x = object.x - 0.5 * air.light[0] * object.size;
    let y = object.ground - 0.3 * flat;
    let strength = 0.55 * (1.0 - haze_share(object.depth));
    for_pixels_around(x, y, (wide, flat), |pixel, dx, dy| {
        let inside = 1.0 - (dx / wide).powi(2) - (dy / flat).powi(2);
        if inside > 0.0 {
            let keep = 1.0 - strength * (1.8 * inside).min(1.0);
            canvas[pixel] = canvas[pixel].map(|value| value * keep);
        }
    });
}

fn paint_object(canvas: &mut [Colour], object: &Object, air: &Air, rng: &mut ChaCha8Rng) {
    let hue = draw(rng, 0.0, 1.0);
    let base = hsv(hue, draw(rng, 0.5, 0.95), draw(rng, 0.55, 1.0));
    let gloss = draw(rng, 0.1, 0.5);
    let bands = if uniform(rng) < 0.25 { draw(rng, 0.12, 0.3) } else { 0.0 };
    let haze = haze_share(object.depth);
    let [light_x, light_y, light_z] = air.light;
    // Halfway between the light and the viewer.
    let half_length = (light_x * light_x + light_y * light_y + (light_z + 1.0).powi(2)).sqrt();
    let (sin, cos) = object.angle.sin_cos();
    let (rim, reach) = (object.shape.rim(), object.shape.reach() + PIXEL / object.size);
    for_pixels_around(object.x, object.y, (reach * object.size, reach * object.size), |pixel, dx, dy| {
        let (dx, dy) = (dx / object.size, dy / object.size);
        if dx * dx + dy * dy > reach * reach {
            return;
        }
        let (u, v) = (cos * dx + sin * dy, cos * dy - sin * dx);
        let edge = object.shape.distance(u, v);
        let cover = (0.5 - edge.distance * object.size / PIXEL).clamp(0.0, 1.0);
        if cover == 0.0 {
            return;
        }
        let slope = (1.0 + edge.distance / rim).clamp(0.0, 0.98); // 0 on the flat, 1 at the edge
        let (out_x, out_y) = (cos * edge.out.0 - sin * edge.out.1, sin * edge.out.0 + cos * edge.out.1);
        let (x, y, z) = (slope * out_x, slope * out_y, (1.0 - slope * slope).sqrt());
        let lambert = (x * light_x + y * light_y + z * light_z).max(0.0);
        let highlight = ((x * light_x + y * light_y + z * (light_z + 1.0)) / half_length).max(0.0);
        let band = 1.0 - bands * f32::from((u * 5.0).rem_euclid(1.0) < 0.5);
        let shade = band * (0.36 + 0.72 * lambert) * (1.0 - 0.14 * dy);
        let shine = gloss * highlight.powi(24);
        let colour = base.map(|value| value * shade + shine);
        canvas[pixel] = mix(canvas[pixel], mix(colour, air.haze, haze), cover);
    });
}

/// How much of what stands at `depth` is lost in the haze.
fn haze_share(depth: f32) -> f32 {
    1.0 - (-0.22 * (depth - 1.0).max(0.0)).exp()
}

/// Calls `visit` with the number of every pixel of a box around (x, y) and its centre's offset from there.
fn for_pixels_around(x: f32, y: f32, reach: (f32, f32), mut visit: impl FnMut(usize, f32, f32)) {
    let range = |centre: f32, reach: f32| {
        let from = ((centre - reach) / PIXEL).floor().max(0.0) as usize;
        let to = ((centre + reach) / PIXEL).ceil().clamp(0.0, SCENE_SIDE as f32) as usize;
        from..to
    };
    for row in range(y, reach.1) {
        for col in range(x, reach.0) {
            visit(row * SCENE_SIDE + col, (col as f32 + 0.5) * PIXEL - x, (row as f32 + 0.5) * PIXEL - y);
        }
    }
}

fn draw(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    between(rng, (f64::from(low), f64::from(high))) as f32
}

fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    std::array::from_fn(|channel| a[channel] + share * (b[channel] - a[channel]))
}

fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    [5.0f32, 3.0, 1.0].map(|phase| {
        let k = (phase + 6.0 * hue) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

/// Smooth noise, 0 to 1, with one draw per unit square (value noise with cubic blending).
fn noise(x: f32, y: f32, salt: u32) -> f32 {
    let (cell_x, cell_y) = (x.floor(), y.floor());
    let blend = |t: f32| t * t * (3.0 - 2.0 * t);
    let (u, v) = (blend(x - cell_x), blend(y - cell_y));
    let (i, j) = (cell_x as i32, cell_y as i32);
    let row = |j: i32| {
        let (left, right) = (lattice(i, j, salt), lattice(i.wrapping_add(1), j, salt));
        left + u * (right - left)
    };
    let (top, bottom) = (row(j), row(j.wrapping_add(1)));
    top + v * (bottom - top)
}

/// A fixed number, 0 to 1, for every lattice point. Multiplicative mixing as in MurmurHash3's finaliser.
fn lattice(i: i32, j: i32, salt: u32) -> f32 {
    let mut bits = (i as u32).wrapping_mul(0x9e37_79b1) ^ (j as u32).wrapping_mul(0x85eb_ca6b) ^ salt;
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
    (bits ^ (bits >> 16)) as f32 / u32::MAX as f32
}
