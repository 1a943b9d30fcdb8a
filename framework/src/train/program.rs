//! The training of a program, as the run loop sees it.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;

use super::run::{Frame, RunOptions, run_loop};
use super::schedule::learning_rate;
use super::trainable::{Preview, ReadTensors, Trainable, WriteTensors};
use super::trainer::StepStats;
use crate::checkpoint::State;
use crate::data::loader::{Loader, LoaderConfig};
use crate::log::EventSink;
use crate::ops::{self, DeviceChoice, Precision};
use crate::plugin::{Dataset, Program, ProgramConfig, ProgramContext};
use crate::recipe::{LoaderSection, Missing, Plan, ProgramPlan, TrainSection};
use crate::streams::Streams;
use crate::weights::StateDict;

/// A program in memory, with its data and how far it is.
#[derive(Debug)]
pub struct ProgramRun {
    /// Networks and optimizers.
    pub program: Box<dyn Program>,
    /// Where it runs, without autodiff.
    pub device: Device,
    precision: Precision,
    dataset: Arc<dyn Dataset>,
    settings: Settings,
    loader: Option<Loader>,
    steps_done: u64,
    is_torn: bool,
}

/// What both sorts of recipe say about a program's batches and rate.
#[derive(Debug, Clone)]
struct Settings {
    seed: u64,
    flip: f64,
    loader: LoaderSection,
    train: TrainSection,
}

impl ProgramRun {
    /// A run of a program of its own, at step 0.
    ///
    /// # Errors
    /// The device, the data or a weight file is not there; sizes do not fit.
    pub fn new(plan: &ProgramPlan) -> Result<Self> {
        let recipe = &plan.recipe;
        let device = open_device((&recipe.device, recipe.precision), &plan.missing)?;
        let context = ProgramContext {
            seed: recipe.seed,
            image_size: recipe.image_size,
            weights_dir: recipe.weights_dir.clone(),
            train: &recipe.train,
            dataset: recipe.data.open(&plan.dataset_context()).context("data")?.into(),
            autoencoder: recipe.autoencoder.as_deref(),
            plan: None,
        };
        Self::build(&*recipe.program, &context, (device, recipe.precision), recipe.flip, recipe.loader)
    }

    /// A run of a program that trains the plan's diffusion model, at step 0.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_diffusion(plan: &Plan, program: &dyn ProgramConfig) -> Result<Self> {
        let recipe = &plan.recipe;
        let device = open_device((&recipe.device, recipe.precision), &plan.missing)?;
        let context = ProgramContext {
            seed: recipe.seed,
            image_size: recipe.image_size,
            weights_dir: recipe.weights_dir.clone(),
            train: &recipe.train,
            dataset: recipe.data.open(&plan.dataset_context()).context("data")?.into(),
            autoencoder: program.trains_autoencoder().then_some(&*recipe.autoencoder),
            plan: Some(plan),
        };
        Self::build(program, &context, (device, recipe.precision), recipe.flip, recipe.loader)
    }

    fn build(
        program: &dyn ProgramConfig,
        context: &ProgramContext<'_>,
        (device, precision): (Device, Precision),
        flip: f64,
        loader: LoaderSection,
    ) -> Result<Self> {
        let settings = Settings { seed: context.seed, flip, loader, train: context.train.clone() };
        let dataset = context.dataset.clone();
        ensure!(
            dataset.latents().is_none() || !program.trains_autoencoder(),
            "data: cached latents are of a fixed autoencoder, and the program trains it; name the pictures"
        );
        let program = program.build(context, &device).context("program")?;
        Ok(Self { program, device, precision, dataset, settings, loader: None, steps_done: 0, is_torn: false })
    }

    /// Trains to the last step, continuing what the run folder holds.
    ///
    /// # Errors
    /// As [`run_loop`].
    pub fn run(&mut self, frame: &Frame<'_>, options: RunOptions<'_>, sink: &mut dyn EventSink) -> Result<()> {
        run_loop(frame, self, options, sink)
    }

    fn loader(&mut self) -> Result<&mut Loader> {
        if self.loader.is_none() {
            let Settings { seed, flip, loader, train } = &self.settings;
            let config = LoaderConfig {
                batch_size: train.global_batch_size,
                micro_batches_per_step: 1,
                num_workers: loader.num_workers,
                prefetch: loader.prefetch,
                seed: *seed,
                flip: *flip,
                start_step: self.steps_done,
            };
            self.loader = Some(Loader::new(self.dataset.clone(), config)?);
        }
        self.loader.as_mut().context("the loader did not start")
    }
}

/// Opens the device where nothing is missing and it has the precision.
fn open_device((device, precision): (&str, Precision), missing: &[Missing]) -> Result<Device> {
    let device = DeviceChoice::parse(device).and_then(ops::open).context("device")?;
    precision.check(&device)?;
    match missing.first() {
        Some(missing) => bail!("{missing}"),
        None => Ok(device),
    }
}

impl Trainable for ProgramRun {
    fn steps_done(&self) -> u64 {
        self.steps_done
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn advance(&mut self) -> Result<StepStats> {
        let batch = self.loader()?.next()?;
        let learning_rate = learning_rate(&self.settings.train, self.steps_done);
        let streams = Streams::new(self.settings.seed).at(self.steps_done, 0);
        self.is_torn = true;
        let scalars = self.precision.scope(|| ops::guard(|| self.program.step(&batch, &streams, learning_rate)))?;
        self.is_torn = false;
        self.steps_done += 1;
        Ok(StepStats::new(learning_rate, batch.wait_s, scalars))
    }

    fn is_torn(&self) -> bool {
        self.is_torn
    }

    fn save(&self, write: &mut WriteTensors<'_>) -> Result<u64> {
        self.program.save(write).map(|()| self.steps_done)
    }

    fn load(&mut self, state: &State, read: &ReadTensors<'_>) -> Result<()> {
        self.program.load(state.step, read)?;
        self.steps_done = state.step;
        Ok(())
    }

    fn previews(&mut self) -> Result<Vec<Preview>> {
        self.precision.scope(|| ops::guard(|| self.program.previews()))
    }

    fn measures(&mut self) -> Result<Vec<(String, f64)>> {
        self.precision.scope(|| ops::guard(|| self.program.measures()))
    }

    fn weights(&self) -> StateDict {
        self.program.weights()
    }

    fn about(&self) -> serde_json::Map<String, serde_json::Value> {
        let about = [("device", ops::describe(&self.device)), ("precision", self.precision.name().into())];
        about.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect()
    }
}
