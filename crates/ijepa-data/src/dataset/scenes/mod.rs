//! What is in a rendered scene, and what are its labels?
//!
//! One to five solid objects of six shapes stand on a plane that ends at a horizon, under one light. An object of real size
//! r at depth z appears with side k·r/z (the square root of its area) and touches the ground at horizon + g/z, so nearer
//! objects are larger and lower, and haze thickens with depth; real sizes differ, so size alone does not tell the depth.
//! Every shape has the same area at the same size.
//!
//! Labels: the class of the largest object in the picture (its area leads the second by half at least), the number of
//! objects, and the depth of the nearest. Number and nearest depth are drawn first and independently of each other; objects
//! are then laid out so that each can be seen: most of its outline is in the picture and not covered.

mod render;
mod shape;

use rand_chacha::ChaCha8Rng;
use shape::Shape;

use super::Split;
use crate::key::{Key, Purpose, below, between, uniform};
use crate::picture::Picture;

/// Rows and columns of a scene, in pixels.
pub const SCENE_SIDE: usize = 64;

/// Names of the six shapes, by class.
pub const SCENE_CLASSES: [&str; 6] = ["disc", "square", "triangle", "star", "ring", "cross"];

/// Most objects in a scene.
const OBJECTS_MAX: u64 = 5;

/// Depth of the nearest object, uniformly drawn; 1 is at the lower edge of the picture.
const NEAREST: (f64, f64) = (1.0, 2.2);

/// Depth of the farthest object.
const FARTHEST: f64 = 3.4;

/// Bounds of the four distance classes: quarters of the range of the nearest depth, so equally frequent.
pub const DISTANCE_EDGES: [f32; 3] = [1.3, 1.6, 1.9];

/// What is known about a scene.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SceneLabels {
    /// Shape of the largest object: an index into [`SCENE_CLASSES`].
    pub class: u32,
    /// Number of objects, 1 to 5.
    pub count: u32,
    /// Depth of the nearest object, 1 to 2.2; [`distance_bin`] makes a class of it.
    pub distance: f32,
}

/// A numbered set of scenes; each is made anew whenever it is asked for.
#[derive(Debug)]
pub struct Scenes {
    count: usize,
    split: Split,
    seed: u64,
    classes: Vec<String>,
}

/// The distance class, 0 (near) to 3 (far), of a nearest depth.
pub fn distance_bin(distance: f32) -> u32 {
    DISTANCE_EDGES.iter().filter(|&&edge| distance >= edge).count() as u32
}

impl Scenes {
    /// `count` scenes of `seed`. The two splits of a seed share no scene.
    pub fn new(count: usize, split: Split, seed: u64) -> Scenes {
        Scenes { count, split, seed, classes: SCENE_CLASSES.map(str::to_owned).to_vec() }
    }

    /// Number of scenes.
    #[expect(clippy::len_without_is_empty, reason = "a set of scenes is never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Which of the two sets of the seed.
    pub(super) fn split(&self) -> Split {
        self.split
    }

    /// What they are drawn from.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Renders a scene, [`SCENE_SIDE`] pixels wide and high.
    pub fn picture(&self, index: usize) -> Picture {
        let mut rng = self.rng(index);
        let layout = Layout::draw(&mut rng);
        render::render(&layout, &mut rng)
    }

    /// The labels of a scene.
    pub fn labels(&self, index: usize) -> SceneLabels {
        let layout = Layout::draw(&mut self.rng(index));
        let largest = layout.objects.iter().max_by(|a, b| a.size.total_cmp(&b.size)).expect("a scene has an object");
        let nearest = layout.objects.first().expect("a scene has an object");
        SceneLabels { class: largest.shape as u32, count: layout.objects.len() as u32, distance: nearest.depth }
    }

    fn rng(&self, index: usize) -> ChaCha8Rng {
        assert!(index < self.count, "scene {index} of {}", self.count);
        let split = match self.split {
            Split::Train => 0,
            Split::Val => 1,
        };
        Key::new(self.seed, Purpose::Scene, split, index as u64).rng()
    }
}

/// Where everything stands. Lengths are in sides of the picture, y points down.
struct Layout {
    horizon: f32,
    /// Nearest first.
    objects: Vec<Object>,
}

struct Object {
    shape: Shape,
    depth: f32,
    x: f32,
    y: f32,
    /// Where it touches the ground.
    ground: f32,
    /// Square root of its area in the picture.
    size: f32,
    /// Turn about its centre, in radians.
    angle: f32,
}

/// Side of an object of real size 1 at depth 1.
const SIZE_AT_ONE: f64 = 0.37;
/// How far below the horizon the ground at depth 1 lies in the picture.
const CAMERA_HEIGHT: f64 = 0.55;
/// Where the horizon lies in the picture: the camera's tilt varies, as CLEVR's camera does.
const HORIZON: (f64, f64) = (0.2, 0.44);
/// The largest object leads the second by this factor in side, 1.56 in area: a ring or a star reaches
/// further than a disc of the same area and must not look larger.
const LEAD: f64 = 1.25;

impl Layout {
    fn draw(rng: &mut ChaCha8Rng) -> Layout {
        let horizon = between(rng, HORIZON);
        let count = 1 + below(rng, OBJECTS_MAX);
        let nearest = between(rng, NEAREST);
        let sizes = depths_and_sizes(nearest, count, rng);

        let largest = sizes.iter().map(|&(_, size)| size).fold(0.0, f64::max);
        let mut seen = Seen::new();
        let mut objects = Vec::with_capacity(sizes.len());
        for (depth, size) in sizes {
            let shape = Shape::ALL[below(rng, Shape::ALL.len() as u64) as usize];
            let ground = horizon + CAMERA_HEIGHT / depth;
            let wanted = if size == largest { 0.88 } else { 0.65 };
            let mut best: Option<(f32, Object)> = None;
            for _ in 0..24 {
                let angle = (std::f64::consts::TAU * uniform(rng)) as f32;
                let margin = 0.45 * size;
                let x = between(rng, (margin, 1.0 - margin)) as f32;
                let y = ground as f32 - shape.lowest(angle) * size as f32;
                let object =
                    Object { shape, depth: depth as f32, x, y, ground: ground as f32, size: size as f32, angle };
                let visible = seen.visible_share(&object);
                if best.as_ref().is_none_or(|(share, _)| visible > *share) {
                    best = Some((visible, object));
                }
                if visible >= wanted {
                    break;
                }
            }
            let (_, object) = best.expect("there was at least one try");
            seen.cover(&object);
            objects.push(object);
        }
        Layout { horizon: horizon as f32, objects }
    }
}

/// Depth and side of every object, nearest first, with one clearly the largest. `nearest` is met exactly.
fn depths_and_sizes(nearest: f64, count: u64, rng: &mut ChaCha8Rng) -> Vec<(f64, f64)> {
    loop {
        let mut drawn: Vec<(f64, f64)> = (0..count)
            .map(|object| {
                let depth = if object == 0 { nearest } else { between(rng, (nearest + 0.1, FARTHEST)) };
                (depth, SIZE_AT_ONE * between(rng, (0.75, 1.3)) / depth)
            })
            .collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sides: Vec<f64> = drawn.iter().map(|&(_, side)| side).collect();
        sides.sort_by(f64::total_cmp);
        // One draw in ten at least has a clear leader, so this ends soon.
        if sides.len() < 2 || sides[sides.len() - 1] >= LEAD * sides[sides.len() - 2] {
            return drawn;
        }
    }
}

/// Which cells of a coarse raster nearer objects already cover.
struct Seen {
    covered: [bool; Seen::SIDE * Seen::SIDE],
}

impl Seen {
    const SIDE: usize = 32;

    fn new() -> Seen {
        Seen { covered: [false; Seen::SIDE * Seen::SIDE] }
    }

    /// The share of an object's area that lies in the picture and is not covered.
    fn visible_share(&self, object: &Object) -> f32 {
        let (mut all, mut visible) = (0u32, 0u32);
        for_cells_in(object, |cell| {
            all += 1;
            visible += u32::from(cell.is_some_and(|cell| !self.covered[cell]));
        });
        // An object smaller than a cell may miss all cell centres; nothing is known against it.
        if all == 0 { 1.0 } else { visible as f32 / all as f32 }
    }

    fn cover(&mut self, object: &Object) {
        for_cells_in(object, |cell| {
            if let Some(cell) = cell {
                self.covered[cell] = true;
            }
        });
    }
}

/// Calls `visit` for every cell whose centre is inside the object, with nothing where that is outside the picture.
fn for_cells_in(object: &Object, mut visit: impl FnMut(Option<usize>)) {
    let side = Seen::SIDE as f32;
    let reach = object.shape.reach() * object.size;
    let range = |centre: f32| ((centre - reach) * side).floor() as i32..((centre + reach) * side).ceil() as i32;
    for row in range(object.y) {
        for col in range(object.x) {
            let (x, y) = ((col as f32 + 0.5) / side, (row as f32 + 0.5) / side);
            if object.contains(x, y) {
                let inside = (0..Seen::SIDE as i32).contains(&row) && (0..Seen::SIDE as i32).contains(&col);
                visit(inside.then(|| row as usize * Seen::SIDE + col as usize));
            }
        }
    }
}

impl Object {
    /// A place in the picture as the shape sees it: centred, upright, of area 1.
    fn local(&self, x: f32, y: f32) -> (f32, f32) {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = ((x - self.x) / self.size, (y - self.y) / self.size);
        (cos * dx + sin * dy, cos * dy - sin * dx)
    }

    fn contains(&self, x: f32, y: f32) -> bool {
        let (u, v) = self.local(x, y);
        u * u + v * v <= self.shape.reach() * self.shape.reach() && self.shape.distance(u, v).distance < 0.0
    }
}
