//! Data set drawn by the program: colored shapes on a textured gray ground, with class, caption and mask.
//!
//! Lengths are fractions of the side, so every resolution shows the same picture.

mod scene;

use anyhow::{Result, ensure};
use realign::data::image::RgbImage;
use realign::plugin::dataset::{ClassAttribute, Dataset, DatasetConfig, DatasetContext, Example};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use scene::{COLORS, NUM_DRAWS, NUM_PAIR_DRAWS, Object, SHAPES, Scene};

const NUM_CLASSES: usize = SHAPES.len() * COLORS.len();
const MAX_EXAMPLES: usize = 1 << 30; // their order is drawn in memory
const MIN_SIZE: usize = 8; // below this the four shapes look alike

/// `shapes`: circle, square, triangle and ring in red, green, blue and yellow; label = shape · 4 + color.
///
/// Center, radius (6 to 10 pixels of 32), rotation, brightness and ground are drawn from the run's seed and the
/// index, so nothing is stored. Labels go round the classes that are not held out: by default example `i` has class
/// `i` modulo 16. Each picture has a caption: `a small red circle`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShapesConfig {
    /// Examples per epoch, at least 1.
    #[schemars(range(min = 1, max = 1073741824))]
    pub num_examples: usize,
    /// Classes that no example shows, such as `red ring`: what a network makes of them it has put together.
    pub held_out: Vec<String>,
    /// Share of pictures with two smaller objects, whose caption says how they lie: `a small red circle above a large
    /// blue square`. Their label is the first object's.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub pairs: f64,
}

impl Default for ShapesConfig {
    fn default() -> Self {
        Self { num_examples: 50_000, held_out: vec![], pairs: 0.0 }
    }
}

impl ShapesConfig {
    /// The classes that examples show, in order.
    fn shown(&self) -> Vec<usize> {
        (0..NUM_CLASSES).filter(|label| !self.held_out.contains(&class_name(*label))).collect()
    }
}

#[typetag::serde(name = "shapes")]
impl DatasetConfig for ShapesConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        ensure!(self.num_examples > 0, "data set `shapes`: num_examples is `0`; it must be at least 1");
        let size = ctx.image_size;
        ensure!(size >= MIN_SIZE, "data set `shapes`: image size is {size} pixels; it must be at least {MIN_SIZE}");
        let shown = self.shown();
        ensure!(!shown.is_empty(), "data set `shapes`: held_out leaves no class");
        Ok(Box::new(Shapes { num_examples: self.num_examples, shown, pairs: self.pairs, size, seed: ctx.seed }))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        Some(NUM_CLASSES)
    }

    fn has_captions(&self) -> bool {
        true
    }

    fn open_for_judge(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        Self { num_examples: self.num_examples, ..Self::default() }.open(ctx)
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("num_examples", self.num_examples, 1, MAX_EXAMPLES);
        check.range("pairs", self.pairs, 0.0, 1.0);
        let known: Vec<String> = (0..NUM_CLASSES).map(class_name).collect();
        for (i, name) in self.held_out.iter().enumerate() {
            check.one_of(&format!("held_out.{i}"), name, &known);
        }
        if self.shown().is_empty() {
            check.bad("held_out", "all classes are held out; leave at least one");
        }
    }
}

realign::register!(DatasetConfig as "dataset": ShapesConfig);

/// The opened data set `shapes`.
#[derive(Debug)]
pub struct Shapes {
    num_examples: usize,
    shown: Vec<usize>,
    pairs: f64,
    size: usize,
    seed: u64,
}

impl Shapes {
    /// The scene of example `idx`, and its caption.
    fn scene(&self, idx: usize) -> (Scene, String) {
        let (label, streams) = (self.label(idx), Streams::new(self.seed).at(idx as u64, 0));
        let draws = streams.uniform("shapes", NUM_DRAWS);
        let pair = if self.pairs > 0.0 { streams.uniform("pair", NUM_PAIR_DRAWS) } else { vec![] };
        if pair.first().is_none_or(|draw| f64::from(*draw) >= self.pairs) {
            let scene = Scene::new(label, &draws);
            let caption = caption(label, scene.objects[0].radius);
            return (scene, caption);
        }
        let other = self.shown[(f64::from(pair[1]) * self.shown.len() as f64) as usize]; // draws are below 1
        let (scene, relation) = Scene::pair([label, other], &draws, &pair[2..]);
        let words = |object: &Object| format!("a {} {}", object.size_in_pair(), object.name());
        let caption = format!("{} {relation} {}", words(&scene.objects[0]), words(&scene.objects[1]));
        (scene, caption)
    }

    fn label(&self, idx: usize) -> usize {
        self.shown[idx % self.shown.len()]
    }
}

impl Dataset for Shapes {
    fn len(&self) -> usize {
        self.num_examples
    }

    fn num_classes(&self) -> usize {
        NUM_CLASSES
    }

    fn class_name(&self, label: usize) -> String {
        class_name(label)
    }

    fn digest(&self) -> Option<String> {
        let Self { num_examples, shown, pairs, size, seed } = self;
        Some(format!("{num_examples} examples of seed {seed} and {size} pixels, classes {shown:?}, pairs {pairs}"))
    }

    /// Large ones for the first of each class, then small ones, and so on.
    fn prompt(&self, idx: u64, label: usize) -> Option<String> {
        let size = if (idx / NUM_CLASSES as u64).is_multiple_of(2) { "large" } else { "small" };
        Some(format!("a {size} {}", class_name(label)))
    }

    fn is_held_out(&self, label: usize) -> bool {
        !self.shown.contains(&label)
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
        let (scene, caption) = self.scene(idx);
        let (pixels, mask) = scene.render(self.size);
        let image = RgbImage::new(self.size, self.size, pixels)?;
        Ok(Example { image, label: self.label(idx), captions: vec![caption], mask: Some(mask) })
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
    let size = if radius < scene::LARGE_RADIUS { "small" } else { "large" };
    format!("a {size} {}", class_name(label))
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
            let caption = &example.captions[0];
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
    fn half_the_captions_say_large() {
        let data = open(8, 2);
        let large = (0..400).filter(|&idx| data.get(idx).unwrap().captions[0].starts_with("a large ")).count();
        assert!((160..240).contains(&large), "{large}");
    }

    #[test]
    fn sizes_that_cannot_be_drawn_are_refused() {
        assert!(
            ShapesConfig { num_examples: 0, ..Default::default() }
                .open(&DatasetContext { image_size: 32, seed: 0 })
                .is_err()
        );
        assert!(ShapesConfig::default().open(&DatasetContext { image_size: 7, seed: 0 }).is_err());
    }

    #[test]
    fn pictures_of_the_default_are_what_they_always_were() {
        let (data, mut hash) = (open(32, 0), 0xcbf2_9ce4_8422_2325u64); // FNV-1a
        for idx in 0..64 {
            for byte in data.get(idx).unwrap().image.pixels() {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        assert_eq!(hash, 14_257_610_660_671_665_569);
    }

    #[test]
    fn a_class_that_is_held_out_is_never_shown_and_pairs_name_both_objects() {
        let held_out = vec!["red ring".to_string(), "blue circle".into()];
        let config = ShapesConfig { held_out, pairs: 0.5, ..Default::default() };
        let data = config.open(&DatasetContext { image_size: 9, seed: 1 }).unwrap();
        let mut num_pairs = 0;
        for idx in 0..500 {
            let example = data.get(idx).unwrap();
            let caption = &example.captions[0];
            assert!(!caption.contains("red ring") && !caption.contains("blue circle"), "{caption}");
            let first = caption.strip_prefix("a small ").or(caption.strip_prefix("a large ")).unwrap();
            assert!(first.starts_with(&class_name(example.label)), "{caption}");
            num_pairs += usize::from([" of ", " above ", " below "].iter().any(|word| caption.contains(word)));
        }
        assert!((200..300).contains(&num_pairs), "{num_pairs}");
        assert!(data.is_held_out(12) && !data.is_held_out(13));
        let judged = config.open_for_judge(&DatasetContext { image_size: 9, seed: 1 }).unwrap();
        assert_eq!((judged.get(12).unwrap().label, judged.is_held_out(12)), (12, false));
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
