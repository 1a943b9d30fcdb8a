//! Data set drawn by the program: one colored shape on a textured gray ground, with class, caption and mask.
//!
//! Lengths are fractions of the side, so every resolution shows the same picture.

use anyhow::{Result, ensure};
use realign::data::image::RgbImage;
use realign::plugin::dataset::{ClassAttribute, Dataset, DatasetConfig, DatasetContext, Example};
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const SHAPES: [&str; 4] = ["circle", "square", "triangle", "ring"];
const COLORS: [(&str, [f32; 3]); 4] = [
    ("red", [222.0, 38.0, 38.0]),
    ("green", [36.0, 170.0, 58.0]),
    ("blue", [40.0, 78.0, 230.0]),
    ("yellow", [242.0, 208.0, 34.0]),
];
const RADIUS: [f32; 2] = [6.0 / 32.0, 10.0 / 32.0];
const LARGE_RADIUS: f32 = 8.0 / 32.0; // the middle of the range, so that half are large
const REACH: f32 = 1.15; // farthest corner of any shape, in radii
const SOFTNESS: f32 = 1.2 / 32.0; // width of an edge, but never less than a pixel
const GRID: usize = 5; // knots of the ground's texture along a side
const MIN_SIZE: usize = 8; // below this the four shapes look alike

/// `shapes`: circle, square, triangle and ring in red, green, blue and yellow; label = shape · 4 + color.
///
/// Center, radius (6 to 10 pixels of 32), rotation, brightness and ground are drawn from the run's seed and the
/// index, so nothing is stored. Labels go round: example `i` has class `i` modulo 16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShapesConfig {
    /// Examples per epoch, at least 1.
    #[schemars(range(min = 1))]
    pub num_examples: usize,
}

impl Default for ShapesConfig {
    fn default() -> Self {
        Self { num_examples: 50_000 }
    }
}

#[typetag::serde(name = "shapes")]
impl DatasetConfig for ShapesConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        ensure!(self.num_examples > 0, "data set `shapes`: num_examples is `0`; it must be at least 1");
        let size = ctx.image_size;
        ensure!(size >= MIN_SIZE, "data set `shapes`: image size is {size} pixels; it must be at least {MIN_SIZE}");
        Ok(Box::new(Shapes { num_examples: self.num_examples, size, seed: ctx.seed }))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        Some(SHAPES.len() * COLORS.len())
    }
}

realign::register!(DatasetConfig as "dataset": ShapesConfig);

/// The opened data set `shapes`.
#[derive(Debug)]
pub struct Shapes {
    num_examples: usize,
    size: usize,
    seed: u64,
}

impl Dataset for Shapes {
    fn len(&self) -> usize {
        self.num_examples
    }

    fn num_classes(&self) -> usize {
        SHAPES.len() * COLORS.len()
    }

    fn class_name(&self, label: usize) -> String {
        class_name(label)
    }

    fn digest(&self) -> Option<String> {
        Some(format!("{} examples of seed {} and {} pixels", self.num_examples, self.seed, self.size))
    }

    fn attributes(&self) -> Vec<ClassAttribute> {
        let labels = 0..self.num_classes();
        vec![
            ClassAttribute { name: "color", values: labels.clone().map(|label| label % COLORS.len()).collect() },
            ClassAttribute { name: "shape", values: labels.map(|label| label / COLORS.len()).collect() },
        ]
    }

    fn get(&self, idx: usize) -> Result<Example> {
        ensure!(idx < self.num_examples, "data set `shapes`: index {idx} of {} examples", self.num_examples);
        let label = idx % self.num_classes();
        let draws = Streams::new(self.seed).at(idx as u64, 0).uniform("shapes", NUM_DRAWS);
        let scene = Scene::new(label, &draws);
        let (pixels, mask) = scene.render(self.size);
        let image = RgbImage::new(self.size, self.size, pixels)?;
        Ok(Example { image, label, caption: Some(caption(label, scene.radius)), mask: Some(mask) })
    }
}

/// Name of a class: `red circle`. Labels wrap at 16.
pub fn class_name(label: usize) -> String {
    format!("{} {}", COLORS[label % 4].0, SHAPES[label / 4 % 4])
}

/// Caption of a shape of class `label` whose radius is a fraction of the picture's side: `a small red circle`.
///
/// ```
/// assert_eq!(realign_plugins::datasets::shapes::caption(0, 0.2), "a small red circle");
/// ```
pub fn caption(label: usize, radius: f32) -> String {
    let size = if radius < LARGE_RADIUS { "small" } else { "large" };
    format!("a {size} {}", class_name(label))
}

const NUM_DRAWS: usize = 5 + GRID * GRID;

/// One picture before it has pixels.
#[derive(Debug)]
struct Scene {
    shape: usize,
    color: [f32; 3],
    center: [f32; 2],
    radius: f32,
    cosine: f32,
    sine: f32,
    knots: [[f32; GRID]; GRID],
}

impl Scene {
    /// The scene of class `label` from [`NUM_DRAWS`] uniform draws in [0, 1).
    fn new(label: usize, draws: &[f32]) -> Self {
        let between = |low: f32, high: f32, draw: usize| low + (high - low) * draws[draw];
        let radius = between(RADIUS[0], RADIUS[1], 0);
        let margin = radius * REACH + SOFTNESS;
        let center = [1, 2].map(|draw| between(margin, 1.0 - margin, draw));
        let angle = between(0.0, std::f32::consts::TAU, 3);
        let brightness = between(0.88, 1.0, 4);
        let mut knots = [[0.0; GRID]; GRID];
        for (knot, draw) in knots.iter_mut().flatten().zip(5..) {
            *knot = between(70.0, 175.0, draw);
        }
        let color = COLORS[label % 4].1.map(|value| value * brightness);
        Self { shape: label / 4 % 4, color, center, radius, cosine: angle.cos(), sine: angle.sin(), knots }
    }

    /// Signed distance to the shape's edge in fractions of the side, negative inside.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = (x - self.center[0], y - self.center[1]);
        let (u, v) = (self.cosine * dx + self.sine * dy, self.cosine * dy - self.sine * dx);
        let radius = self.radius;
        match self.shape {
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

    /// Pixels (row, column, channel) and mask of a picture with sides of `size` pixels.
    fn render(&self, size: usize) -> (Vec<u8>, Vec<u8>) {
        let pixel = 1.0 / size as f32;
        let sharpness = 1.0 / SOFTNESS.max(pixel);
        let (mut pixels, mut mask) = (Vec::with_capacity(size * size * 3), Vec::with_capacity(size * size));
        for row in 0..size {
            let y = (row as f32 + 0.5) * pixel;
            let knots = self.knots_at(y);
            for column in 0..size {
                let x = (column as f32 + 0.5) * pixel;
                let ground = interpolate(x, |knot| knots[knot]);
                let cover = smooth_step(0.5 - self.distance(x, y) * sharpness);
                pixels.extend(self.color.map(|value| (ground + (value - ground) * cover + 0.5) as u8));
                mask.push(if cover >= 0.5 { 255 } else { 0 });
            }
        }
        (pixels, mask)
    }

    /// The ground's knots of one row.
    fn knots_at(&self, y: f32) -> [f32; GRID] {
        std::array::from_fn(|column| interpolate(y, |row| self.knots[row][column]))
    }
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

    fn open(size: usize, seed: u64) -> Box<dyn Dataset> {
        ShapesConfig::default().open(&DatasetContext { image_size: size, seed }).unwrap()
    }

    fn covered(example: &Example) -> usize {
        example.mask.as_ref().unwrap().iter().filter(|&&value| value == 255).count()
    }

    #[test]
    fn an_example_is_a_function_of_seed_and_index() {
        let data = open(33, 7);
        assert_eq!(data.get(40).unwrap(), open(33, 7).get(40).unwrap());
        assert_ne!(data.get(40).unwrap().image, data.get(56).unwrap().image);
        assert_ne!(data.get(40).unwrap().image, open(33, 8).get(40).unwrap().image);
        assert!(data.get(50_000).is_err());
    }

    #[test]
    fn label_color_and_caption_agree() {
        let data = open(32, 1);
        for idx in 0..160 {
            let example = data.get(idx).unwrap();
            assert_eq!(example.label, idx % 16);
            let caption = example.caption.as_ref().unwrap();
            assert!(caption.ends_with(&data.class_name(example.label)), "{caption}");
            let mask = example.mask.as_ref().unwrap();
            let mut mean = [0.0; 3];
            for (pixel, _) in example.image.pixels().chunks(3).zip(mask).filter(|(_, m)| **m == 255) {
                (0..3).for_each(|c| mean[c] += f32::from(pixel[c]) / covered(&example) as f32);
            }
            let distance = |color: [f32; 3]| (0..3).map(|c| (mean[c] - color[c]).powi(2)).sum::<f32>();
            let nearest = (0..4).min_by(|&a, &b| distance(COLORS[a].1).total_cmp(&distance(COLORS[b].1)));
            assert_eq!(nearest, Some(example.label % 4), "{caption}");
        }
    }

    #[test]
    fn shapes_have_the_area_of_their_formula_and_stay_inside() {
        let area = |shape: usize| [2.835, 2.56, 1.688, 2.356][shape]; // in squared radii
        for size in [32, 65] {
            for idx in 0..320 {
                let draws = Streams::new(3).at(idx, 0).uniform("shapes", NUM_DRAWS);
                let scene = Scene::new(idx as usize % 16, &draws);
                let mask = scene.render(size).1;
                let found = mask.iter().filter(|&&m| m == 255).count() as f32;
                let expected = area(scene.shape) * (scene.radius * size as f32).powi(2);
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
            let scene = Scene::new(label, &draws);
            assert_eq!(scene.distance(scene.center[0], scene.center[1]) > 0.0, label >= 12);
        }
    }

    #[test]
    fn half_the_captions_say_large() {
        let data = open(8, 2);
        let large = (0..400).filter(|&idx| data.get(idx).unwrap().caption.unwrap().starts_with("a large ")).count();
        assert!((160..240).contains(&large), "{large}");
    }

    #[test]
    fn sizes_that_cannot_be_drawn_are_refused() {
        assert!(ShapesConfig { num_examples: 0 }.open(&DatasetContext { image_size: 32, seed: 0 }).is_err());
        assert!(ShapesConfig::default().open(&DatasetContext { image_size: 7, seed: 0 }).is_err());
    }

    #[test]
    fn a_classifier_tells_colors_and_shapes_apart() {
        use realign::{eval::Classifier, ops};
        let dataset: std::sync::Arc<dyn Dataset> =
            ShapesConfig::default().open(&DatasetContext { image_size: 32, seed: 0 }).unwrap().into();
        let device = ops::open(ops::DeviceChoice::Auto).unwrap();
        let report = Classifier::train(dataset, 32, &device, 0).unwrap().judge_data().unwrap();
        assert_eq!(report.accuracy[0].0, "color");
        assert!(report.accuracy[0].1 > 0.99 && report.accuracy[1].1 > 0.95, "{report:?}");
    }
}
