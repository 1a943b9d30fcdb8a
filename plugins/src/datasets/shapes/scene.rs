//! What a picture of `shapes` shows, before and after it has pixels.

use super::class_name;

pub const SHAPES: [&str; 4] = ["circle", "square", "triangle", "ring"];
pub const COLORS: [(&str, [f32; 3]); 4] = [
    ("red", [222.0, 38.0, 38.0]),
    ("green", [36.0, 170.0, 58.0]),
    ("blue", [40.0, 78.0, 230.0]),
    ("yellow", [242.0, 208.0, 34.0]),
];
const RADIUS: [f32; 2] = [6.0 / 32.0, 10.0 / 32.0];
pub const LARGE_RADIUS: f32 = 8.0 / 32.0; // the middle of the range, so that half are large
const PAIR_RADIUS: [f32; 2] = [3.5 / 32.0, 5.75 / 32.0]; // the largest fits into half a picture
const LARGE_PAIR_RADIUS: f32 = 4.625 / 32.0;
const REACH: f32 = 1.15; // farthest corner of any shape, in radii
const SOFTNESS: f32 = 1.2 / 32.0; // width of an edge, but never less than a pixel
const GRID: usize = 5; // knots of the ground's texture along a side
/// How the first of two objects lies to the second: words, axis (0 is x), and whether it is on the smaller side.
const RELATIONS: [(&str, usize, bool); 4] =
    [("to the left of", 0, true), ("to the right of", 0, false), ("above", 1, true), ("below", 1, false)];

/// Draws of a scene of one object; a pair takes its ground from them.
pub const NUM_DRAWS: usize = 5 + GRID * GRID;
/// Draws of a pair: whether it is one, the second class, and the rest.
pub const NUM_PAIR_DRAWS: usize = 2 + 1 + 2 * 5;

/// One picture before it has pixels.
#[derive(Debug)]
pub struct Scene {
    pub objects: Vec<Object>,
    knots: [[f32; GRID]; GRID],
}

/// One shape.
#[derive(Debug)]
pub struct Object {
    label: usize,
    color: [f32; 3],
    center: [f32; 2],
    pub radius: f32,
    cosine: f32,
    sine: f32,
}

impl Scene {
    /// One object of class `label` from [`NUM_DRAWS`] uniform draws in [0, 1).
    pub fn new(label: usize, draws: &[f32]) -> Self {
        let object = Object::new(label, draws, RADIUS, [[0.0, 1.0]; 2]);
        Self { objects: vec![object], knots: knots(draws) }
    }

    /// Two objects, and how the first lies to the second; `pair` holds the draws behind the first two.
    pub fn pair(labels: [usize; 2], draws: &[f32], pair: &[f32]) -> (Self, &'static str) {
        let (words, axis, is_first) = RELATIONS[(pair[0] * RELATIONS.len() as f32) as usize % RELATIONS.len()];
        let object = |n: usize| {
            let mut area = [[0.0, 1.0]; 2];
            area[axis] = if (n == 0) == is_first { [0.0, 0.5] } else { [0.5, 1.0] };
            Object::new(labels[n], &pair[1 + 5 * n..], PAIR_RADIUS, area)
        };
        (Self { objects: vec![object(0), object(1)], knots: knots(draws) }, words)
    }

    /// Pixels (row, column, channel) and mask of a picture with sides of `size` pixels.
    pub fn render(&self, size: usize) -> (Vec<u8>, Vec<u8>) {
        let pixel = 1.0 / size as f32;
        let sharpness = 1.0 / SOFTNESS.max(pixel);
        let (mut pixels, mut mask) = (Vec::with_capacity(size * size * 3), Vec::with_capacity(size * size));
        for row in 0..size {
            let y = (row as f32 + 0.5) * pixel;
            let knots = self.knots_at(y);
            for column in 0..size {
                let x = (column as f32 + 0.5) * pixel;
                let (mut color, mut is_object) = ([interpolate(x, |knot| knots[knot]); 3], false);
                for object in &self.objects {
                    let cover = smooth_step(0.5 - object.distance(x, y) * sharpness);
                    for (below, above) in color.iter_mut().zip(object.color) {
                        *below += (above - *below) * cover;
                    }
                    is_object |= cover >= 0.5;
                }
                pixels.extend(color.map(|value| (value + 0.5) as u8));
                mask.push(if is_object { 255 } else { 0 });
            }
        }
        (pixels, mask)
    }

    /// The ground's knots of one row.
    fn knots_at(&self, y: f32) -> [f32; GRID] {
        std::array::from_fn(|column| interpolate(y, |row| self.knots[row][column]))
    }
}

impl Object {
    /// An object of class `label` inside an area, its sides in x and y; from five uniform draws in [0, 1).
    fn new(label: usize, draws: &[f32], radii: [f32; 2], area: [[f32; 2]; 2]) -> Self {
        let between = |low: f32, high: f32, draw: usize| low + (high - low) * draws[draw];
        let radius = between(radii[0], radii[1], 0);
        let margin = radius * REACH + SOFTNESS;
        let center = [0, 1].map(|axis| between(area[axis][0] + margin, area[axis][1] - margin, 1 + axis));
        let angle = between(0.0, std::f32::consts::TAU, 3);
        let brightness = between(0.88, 1.0, 4);
        let color = COLORS[label % 4].1.map(|value| value * brightness);
        Self { label, color, center, radius, cosine: angle.cos(), sine: angle.sin() }
    }

    /// `red circle`
    pub fn name(&self) -> String {
        class_name(self.label)
    }

    /// Its size beside another object.
    pub fn size_in_pair(&self) -> &'static str {
        if self.radius < LARGE_PAIR_RADIUS { "small" } else { "large" }
    }

    /// Signed distance to the shape's edge in fractions of the side, negative inside.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = (x - self.center[0], y - self.center[1]);
        let (u, v) = (self.cosine * dx + self.sine * dy, self.cosine * dy - self.sine * dx);
        let radius = self.radius;
        match self.label / 4 % 4 {
            0 => u.hypot(v) - 0.95 * radius,
            1 => u.abs().max(v.abs()) - 0.8 * radius, // corners reach 1.13 radii
            2 => {
                let side = |cosine: f32, sine: f32| cosine * u + sine * v;
                let half_root = 0.75f32.sqrt();
                side(0.0, -1.0).max(side(half_root, 0.5)).max(side(-half_root, 0.5)) - 0.57 * radius // corners at 1.14
            }
            _ => (u.hypot(v) - 0.75 * radius).abs() - 0.25 * radius,
        }
    }
}

/// The ground's gray values, from the draws behind an object's five.
fn knots(draws: &[f32]) -> [[f32; GRID]; GRID] {
    let mut knots = [[0.0; GRID]; GRID];
    for (knot, draw) in knots.iter_mut().flatten().zip(&draws[5..]) {
        *knot = 70.0 + (175.0 - 70.0) * draw;
    }
    knots
}

/// Smooth curve through `GRID` equidistant values over [0, 1].
fn interpolate(at: f32, value: impl Fn(usize) -> f32) -> f32 {
    let scaled = at * (GRID - 1) as f32;
    let cell = (scaled as usize).min(GRID - 2);
    let share = smooth_step(scaled - cell as f32);
    value(cell) + (value(cell + 1) - value(cell)) * share
}

fn smooth_step(x: f32) -> f32 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::streams::Streams;

    #[test]
    fn shapes_have_the_area_of_their_formula_and_stay_inside() {
        let area = |shape: usize| [2.835, 2.56, 1.688, 2.356][shape]; // in squared radii
        for size in [32, 65] {
            for idx in 0..320 {
                let draws = Streams::new(3).at(idx, 0).uniform("shapes", NUM_DRAWS);
                let scene = Scene::new(idx as usize % 16, &draws);
                let mask = scene.render(size).1;
                let found = mask.iter().filter(|&&m| m == 255).count() as f32;
                let object = &scene.objects[0];
                let expected = area(object.label / 4) * (object.radius * size as f32).powi(2);
                assert!((found / expected - 1.0).abs() < 0.15, "{scene:?} {found} {expected}");
                let is_border = |at: usize| [at % size, at / size].iter().any(|&p| p == 0 || p == size - 1);
                assert!((0..size * size).all(|at| !is_border(at) || mask[at] == 0));
            }
        }
    }

    #[test]
    fn only_the_ring_has_a_hole() {
        for label in 0..16 {
            let draws = Streams::new(3).at(label as u64, 0).uniform("shapes", NUM_DRAWS);
            let object = &Scene::new(label, &draws).objects[0];
            assert_eq!(object.distance(object.center[0], object.center[1]) > 0.0, label >= 12);
        }
    }

    #[test]
    fn objects_of_a_pair_lie_as_their_words_say_and_do_not_touch() {
        for idx in 0..400 {
            let streams = Streams::new(4).at(idx, 0);
            let (draws, pair) = (streams.uniform("shapes", NUM_DRAWS), streams.uniform("pair", NUM_PAIR_DRAWS));
            let (scene, words) = Scene::pair([0, 5], &draws, &pair[2..]);
            let [a, b] = [&scene.objects[0], &scene.objects[1]];
            let [x, y] = [0, 1].map(|axis| b.center[axis] - a.center[axis]);
            let apart = match words {
                "to the left of" => x,
                "to the right of" => -x,
                "above" => y,
                _ => -y,
            };
            assert!(apart > REACH * (a.radius + b.radius), "{words}: {scene:?}");
        }
    }
}
