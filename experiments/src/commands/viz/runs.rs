//! Features of a trained run: what it is aligned with, and what it makes of a noisy picture inside.

use std::path::Path;

use anyhow::{Result, ensure};
use realign::checkpoint::{Checkpoint, TrainedRun};
use realign::eval::tap_features;
use realign::plugin::Example;
use realign::streams::Streams;
use realign::train::{Assembly, TrainModel};

use super::{Row, in_batches};
use crate::commands::recipe_args::{check_device, settings};

/// A run with its newest weights.
pub struct Run {
    /// The run.
    pub trained: TrainedRun,
    checkpoint: Checkpoint,
}

impl Run {
    /// Reads the recipe and finds the newest checkpoint.
    ///
    /// # Errors
    /// The folder is no run's, or holds no whole checkpoint.
    pub fn open(folder: &Path) -> Result<Self> {
        let trained = TrainedRun::open(&settings()?, folder, &[])?;
        check_device(&trained.layered, &trained.plan.recipe.device, trained.plan.recipe.precision)?;
        let checkpoint = trained.checkpoint(None)?;
        Ok(Self { trained, checkpoint })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.trained.run_dir
    }

    /// Step of the weights.
    pub fn step(&self) -> u64 {
        self.checkpoint.step
    }

    /// Targets of each term, then for each tap its tokens and, where a term aligns it, what its projectors make of them.
    ///
    /// # Errors
    /// A block is not there, or the tensor library fails.
    pub fn rows(&self, taps: &[usize], noise_level: f64, examples: &[Example], batch: usize) -> Result<Vec<Row>> {
        let plan = &self.trained.plan;
        let depth = plan.backbone.depth;
        let assembly = Assembly::new(plan)?;
        let device = &assembly.device;
        let weights = &plan.recipe.sample.weights;
        let model = self.trained.model(&self.checkpoint, weights, device)?;
        let mut taps = taps.to_vec();
        if taps.is_empty() {
            taps.extend(assembly.alignment.terms.iter().map(|term| term.encoder_depth));
            if taps.is_empty() {
                taps.push(depth.div_ceil(2)); // nothing is aligned: the middle
            }
        }
        taps.sort_unstable();
        taps.dedup();
        let is_there = |tap: &&usize| (1..=depth).contains(*tap);
        let wrong = taps.iter().find(|tap| !is_there(tap));
        ensure!(wrong.is_none(), "--tap {}: the network has blocks 1 to {depth}", wrong.unwrap_or(&0));
        let name = self.folder().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let grid = plan.backbone.grid;
        let mut rows = vec![];
        for (term, section) in assembly.alignment.terms.iter().zip(&plan.recipe.alignment) {
            for (encoder, config) in term.encoders.iter().zip(&section.encoders) {
                let tokens = in_batches(examples, batch, device, |images| {
                    Ok(vec![assembly.precision.scope(|| encoder.encode(images))?.tokens])
                })?;
                let label = format!("target {}", (config.info().name)());
                rows.extend(tokens.into_iter().map(|tokens| Row { label: label.clone(), grid, tokens }));
            }
        }
        let streams = Streams::new(plan.recipe.seed);
        let inside = in_batches(examples, batch, device, |images| {
            tap_features(plan, &assembly, &model, images, &taps, noise_level, &streams)
        })?;
        for (tap, tokens) in taps.iter().zip(inside) {
            rows.push(Row { label: format!("{name} block {tap}"), grid, tokens: tokens.clone() });
            rows.extend(assembly.precision.scope(|| self.projected(*tap, &tokens, &assembly, &model)));
        }
        Ok(rows)
    }

    /// What the projectors of the terms at this block make of its tokens.
    fn projected(
        &self,
        tap: usize,
        tokens: &realign::burn::tensor::Tensor<3>,
        assembly: &Assembly,
        model: &TrainModel,
    ) -> Vec<Row> {
        let (mut rows, mut first, grid) = (vec![], 0, self.trained.plan.backbone.grid);
        for (term, section) in assembly.alignment.terms.iter().zip(&self.trained.plan.recipe.alignment) {
            let projectors = &model.projectors[first..first + term.num_projectors];
            first += term.num_projectors;
            for projector in projectors.iter().filter(|_| term.encoder_depth == tap) {
                let label = format!("block {tap} through {}", (section.projector.info().name)());
                rows.push(Row { label, grid, tokens: projector.forward(tokens.clone(), grid) });
            }
        }
        rows
    }
}
