//! Samples of a run, drawn as `realign sample` draws them.

use anyhow::Result;
use realign::checkpoint::{Checkpoint, TrainedRun};
use realign::recipe::LabelSampling;
use realign::sample::{Sampling, draw_pictures, sample_labels};
use realign::train::{Assembly, TrainModel};

use super::source::Take;
use crate::progress::pictures_bar;

/// A checkpoint of a run, ready to draw from.
#[derive(Debug)]
pub struct Drawing<'a> {
    trained: &'a TrainedRun,
    /// Everything that is not trained.
    pub assembly: Assembly,
    model: TrainModel,
}

impl<'a> Drawing<'a> {
    /// Loads the weights that the recipe samples with.
    ///
    /// # Errors
    /// They are absent or do not fit.
    pub fn new(trained: &'a TrainedRun, checkpoint: &Checkpoint) -> Result<Self> {
        let assembly = trained.assembly(checkpoint)?;
        let model = trained.model(checkpoint, &trained.plan.recipe.sample.weights, &assembly.device)?;
        Ok(Self { trained, assembly, model })
    }

    /// Draws `count` pictures, `batch_size` at a time.
    ///
    /// # Errors
    /// The sampler fails, or `take` does.
    pub fn each(&self, count: usize, batch_size: usize, seed: u64, take: &mut Take<'_>) -> Result<()> {
        let plan = &self.trained.plan;
        let is_balanced = plan.recipe.sample.label_sampling == LabelSampling::Balanced;
        let labels = sample_labels(count, self.assembly.dataset.num_classes(), is_balanced, seed)?;
        let sampling = Sampling::new(&plan.recipe.sample, seed);
        let side = plan.recipe.image_size;
        let bar = pictures_bar(count);
        bar.set_message("samples");
        for (i, labels) in labels.chunks(batch_size.max(1)).enumerate() {
            let first = (i * batch_size) as u64;
            let sampler = &*self.assembly.sampler;
            take(
                [side, side],
                &draw_pictures(&self.assembly, &self.model, sampler, plan.latent, labels, first, sampling)?,
            )?;
            bar.inc(labels.len() as u64);
        }
        if let Some(note) = self.assembly.draw_size.note() {
            bar.println(format!("samples: {note}"));
        }
        bar.finish_and_clear();
        Ok(())
    }
}
