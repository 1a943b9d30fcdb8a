//! Spatial structure of the network's tokens beside that of what they are aligned with, while it trains.
//!
//! Source: the paper, appendix J and figure 17: alignment closes the gap between the two.

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use super::{Assembly, Trainer};
use crate::data::image_tensor;
use crate::eval::spatial::{SpatialMetric, mean_of_numbers};
use crate::eval::spatial_masks::token_mask;
use crate::eval::tap_features;
use crate::ops;
use crate::plugin::Example;
use crate::recipe::{Plan, SpatialSection};
use crate::streams::Streams;
use crate::weights::to_host;

/// A batch that stays the same, and what does not change over the run.
pub(super) struct SpatialWatch {
    section: SpatialSection,
    taps: Vec<usize>,
    batches: Vec<Held>,
    targets: Vec<(String, f64)>,
}

struct Held {
    images: Tensor<4>,
    mask: Option<Tensor<2>>,
}

impl SpatialWatch {
    /// Holds the first pictures of the data set, and measures the encoders on them.
    ///
    /// # Errors
    /// A picture cannot be read, or a metric needs masks that the data set does not have.
    pub fn new(section: &SpatialSection, plan: &Plan, assembly: &Assembly, micro_batch_size: usize) -> Result<Self> {
        let count = section.num_images.min(assembly.dataset.len());
        let examples = (0..count).map(|idx| assembly.dataset.get(idx)).collect::<Result<Vec<Example>>>()?;
        let batches = examples.chunks(micro_batch_size).map(|batch| held(batch, plan, assembly));
        let mut taps = section.taps.clone();
        if taps.is_empty() {
            taps = assembly.alignment.terms.iter().map(|term| term.encoder_depth).collect();
        }
        taps.sort_unstable();
        taps.dedup();
        let batches = batches.collect::<Result<_>>()?;
        let mut watch = Self { section: section.clone(), taps, batches, targets: vec![] };
        watch.targets = watch.targets(plan, assembly)?;
        Ok(watch)
    }

    /// Every metric of every tap, the trained weights being as they are, and those of encoders and targets.
    ///
    /// # Errors
    /// The tensor library fails.
    pub fn measure(&self, plan: &Plan, trainer: &Trainer) -> Result<Vec<(String, f64)>> {
        let model = trainer.model.valid();
        let streams = Streams::new(plan.recipe.seed);
        let mut means = Means::default();
        for held in &self.batches {
            let level = self.section.noise_level;
            let images = held.images.clone();
            let tokens = tap_features(plan, &trainer.assembly, &model, images, &self.taps, level, &streams)?;
            for (tap, tokens) in self.taps.iter().zip(tokens) {
                means.add(&self.section.metrics, &format!("block{tap}"), tokens, held, plan)?;
            }
        }
        Ok(means.scalars().chain(self.targets.iter().cloned()).collect())
    }

    /// `encoder` are features as they are, `target` those that the normalizer makes of them; further ones have a number.
    fn targets(&self, plan: &Plan, assembly: &Assembly) -> Result<Vec<(String, f64)>> {
        let mut means = Means::default();
        let terms = &assembly.alignment.terms;
        for held in &self.batches {
            let encoders = terms.iter().flat_map(|term| term.encoders.iter().map(move |encoder| (term, encoder)));
            for (i, (term, encoder)) in encoders.enumerate() {
                let suffix = if i == 0 { String::new() } else { format!("_{i}") };
                let tokens = ops::guard(|| encoder.encode(held.images.clone()))?.tokens;
                let normalized = term.normalizer.normalize(tokens.clone(), plan.backbone.grid);
                means.add(&self.section.metrics, &format!("encoder{suffix}"), tokens, held, plan)?;
                means.add(&self.section.metrics, &format!("target{suffix}"), normalized, held, plan)?;
            }
        }
        Ok(means.scalars().collect())
    }
}

fn held(examples: &[Example], plan: &Plan, assembly: &Assembly) -> Result<Held> {
    let (device, grid) = (&assembly.device, plan.backbone.grid);
    let masks: Option<Vec<Vec<f32>>> = examples
        .iter()
        .map(|example| example.mask.as_ref().map(|mask| token_mask(mask, example.image.width(), grid)))
        .collect();
    let shape = [examples.len(), grid.tokens()];
    let mask = masks.map(|masks| Tensor::from_data(TensorData::new(masks.concat(), shape), device));
    Ok(Held { images: image_tensor(examples, device)?, mask })
}

/// Values of all images by tag, in the order in which tags first came.
#[derive(Default)]
struct Means(Vec<(String, Vec<f64>)>);

impl Means {
    fn add(&mut self, metrics: &[SpatialMetric], of: &str, tokens: Tensor<3>, held: &Held, plan: &Plan) -> Result<()> {
        for metric in metrics {
            let found = ops::guard(|| metric.measure(tokens.clone(), held.mask.clone(), plan.backbone.grid))?;
            let values = to_host(found).into_iter().map(f64::from);
            let tag = format!("spatial/{}_{of}", metric.name());
            match self.0.iter_mut().find(|(known, _)| *known == tag) {
                Some((_, all)) => all.extend(values),
                None => self.0.push((tag, values.collect())),
            }
        }
        Ok(())
    }

    fn scalars(self) -> impl Iterator<Item = (String, f64)> {
        self.0.into_iter().map(|(tag, values)| (tag, mean_of_numbers(&values)))
    }
}
