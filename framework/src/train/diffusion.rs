//! The training of a diffusion model, as the run loop sees it.

use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;

use super::ema::Ema;
use super::micro_batch::{KEY, MicroBatch};
use super::previews::{PreviewSettings, sample_previews};
use super::run::{Frame, RunOptions, run_loop};
use super::spatial_watch::SpatialWatch;
use super::trainable::{Preview, ReadTensors, Trainable, WriteTensors};
use super::trainer::{StepStats, Trainer};
use crate::checkpoint::State;
use crate::log::{Event, EventSink};
use crate::ops::{self, JvpMethod};
use crate::recipe::{EmaSection, Layered, Plan, SpatialSection};
use crate::weights::{StateDict, load_state_dict, state_dict};

/// Trains to the last step, continuing what the run folder holds.
///
/// Returns the trainer at its last step, for whoever evaluates the network next.
///
/// # Errors
/// The data, the device or the disk fails, or another program trains in the folder. What was trained until then is
/// saved where that is possible; checkpoints that are there stay.
pub fn run(plan: &Plan, layered: &Layered, options: RunOptions<'_>, sink: &mut dyn EventSink) -> Result<Trainer> {
    let micro_batch = MicroBatch::of_run(plan, &options.run_dir)?;
    if let Some(note) = micro_batch.note {
        sink.event(&Event::Note(note));
    }
    let mut trainer = Trainer::new(plan)?;
    trainer.set_micro_batches(micro_batch.samples, plan.recipe.train.global_batch_size / micro_batch.samples.max(1));
    let mut diffusion = Diffusion { trainer, plan, spatial: None };
    let frame = Frame::of_diffusion(plan, layered)?;
    run_loop(&frame, &mut diffusion, options, sink)?;
    Ok(diffusion.trainer)
}

struct Diffusion<'a> {
    plan: &'a Plan,
    trainer: Trainer,
    /// Made when it is first needed.
    spatial: Option<SpatialWatch>,
}

impl Trainable for Diffusion<'_> {
    fn steps_done(&self) -> u64 {
        self.trainer.step
    }

    fn device(&self) -> &Device {
        &self.trainer.assembly.device
    }

    fn prepare(&mut self, run_dir: &Path) -> Result<Vec<String>> {
        self.trainer.assembly.keep_features(self.plan, self.trainer.micro_batch_size(), run_dir)
    }

    fn notices(&self) -> Vec<String> {
        self.trainer.assembly.caches.iter().flatten().flat_map(|cache| cache.problems()).collect()
    }

    fn advance(&mut self) -> Result<StepStats> {
        self.trainer.step(self.plan)
    }

    fn is_torn(&self) -> bool {
        self.trainer.is_torn()
    }

    fn save(&self, write: &mut WriteTensors<'_>) -> Result<u64> {
        let (optimizer, optimizer_step) = self.trainer.optimizer.state_dict();
        write("optimizer", &optimizer)?;
        drop(optimizer);
        // One copy at a time on the host.
        write("model", &state_dict(&self.trainer.model))?;
        for ema in &self.trainer.emas {
            write(&format!("ema-{}", ema.settings.name), &state_dict(ema.model()))?;
        }
        Ok(optimizer_step)
    }

    fn load(&mut self, state: &State, read: &ReadTensors<'_>) -> Result<()> {
        let model = load_state_dict(self.trainer.model.clone(), read("model")?)?;
        let restored =
            |ema: &EmaSection| Ema::from_state_dict(&model, ema.clone(), read(&format!("ema-{}", ema.name))?);
        let emas = self.plan.recipe.train.ema.iter().map(restored).collect::<Result<Vec<_>>>()?;
        self.trainer.optimizer.load_state_dict(read("optimizer")?, state.optimizer_step)?;
        (self.trainer.model, self.trainer.emas, self.trainer.step) = (model, emas, state.step);
        Ok(())
    }

    fn previews(&mut self) -> Result<Vec<Preview>> {
        let settings = PreviewSettings::new(self.plan);
        let model = self.trainer.weights(&settings.weights)?;
        sample_previews(&self.trainer.assembly, &model, &settings)
    }

    fn watch(&mut self, is_last: bool) -> Result<Vec<(String, f64)>> {
        let section = self.plan.recipe.log.spatial.as_ref();
        let is_due = |section: &&SpatialSection| is_last || self.trainer.step.is_multiple_of(section.every);
        let Some(section) = section.filter(is_due) else { return Ok(vec![]) };
        self.trainer.assembly.precision.scope(|| {
            let watch = match self.spatial.take() {
                Some(watch) => watch,
                None => {
                    let (assembly, micro_batch_size) = (&self.trainer.assembly, self.trainer.micro_batch_size());
                    SpatialWatch::new(section, self.plan, assembly, micro_batch_size)?
                }
            };
            self.spatial.insert(watch).measure(self.plan, &self.trainer)
        })
    }

    fn weights(&self) -> StateDict {
        state_dict(&self.trainer.model)
    }

    fn about(&self) -> serde_json::Map<String, serde_json::Value> {
        let device: &Device = &self.trainer.assembly.device;
        let derivative = self.plan.recipe.objective.takes_derivative().then(|| JvpMethod::of(device).name());
        let about = [
            ("device", ops::describe(device).into()),
            ("precision", self.trainer.assembly.precision.name().into()),
            ("derivative", derivative.into()),
            (KEY, self.trainer.micro_batch_size().into()),
        ];
        about.into_iter().map(|(key, value): (&str, serde_json::Value)| (key.to_string(), value)).collect()
    }
}
