//! A few steps of a recipe, nothing of which is kept: for whoever measures what a step costs.

use anyhow::{Context, Result, bail};
use realign::burn::tensor::Device;
use realign::ops::{self, DeviceChoice};
use realign::recipe::{Job, MicroBatchSize, Missing, Plan, TrainSection};
use realign::train::{MicroBatch, ProgramRun, StepStats, Trainable, Trainer};

/// A recipe's training in memory.
#[derive(Debug)]
pub enum Trial<'a> {
    /// Of a diffusion model alone.
    Diffusion(Box<Trainer>, &'a Plan),
    /// Of a program.
    Program(Box<ProgramRun>),
}

impl<'a> Trial<'a> {
    /// Builds everything that the recipe trains, at step 0, with what [`micro_batch_of`] said.
    ///
    /// # Errors
    /// Something is missing, or sizes do not fit.
    pub fn new(job: &'a Job, micro_batch: Option<&MicroBatch>) -> Result<Self> {
        match job {
            Job::Program(plan) => Ok(Self::Program(Box::new(ProgramRun::new(plan)?))),
            Job::Diffusion(plan) => Self::of_plan(plan, micro_batch),
        }
    }

    /// The same for a recipe with a diffusion model, with what [`micro_batch_of_plan`] said.
    ///
    /// # Errors
    /// Something is missing, or sizes do not fit.
    pub fn of_plan(plan: &'a Plan, micro_batch: Option<&MicroBatch>) -> Result<Self> {
        if let Some(program) = &plan.recipe.program {
            return Ok(Self::Program(Box::new(ProgramRun::with_diffusion(plan, &**program)?)));
        }
        let mut trainer = Trainer::new(plan)?;
        if let Some(MicroBatch { samples, .. }) = micro_batch {
            trainer.set_micro_batches(*samples, plan.recipe.train.global_batch_size / samples);
        }
        Ok(Self::Diffusion(Box::new(trainer), plan))
    }

    /// One optimizer step.
    ///
    /// # Errors
    /// Data cannot be read, or the tensor library fails.
    pub fn step(&mut self) -> Result<StepStats> {
        match self {
            Self::Diffusion(trainer, plan) => trainer.step(plan),
            Self::Program(run) => run.advance(),
        }
    }
}

/// The device of a recipe of either sort, where nothing that it needs is missing.
///
/// # Errors
/// The device is not there, or a file is absent; the message says how to get it.
pub fn device_of(job: &Job) -> Result<Device> {
    match job {
        Job::Diffusion(plan) => device_of_plan(plan),
        Job::Program(plan) => opened(&plan.recipe.device, &plan.missing),
    }
}

/// The same for a recipe with a diffusion model.
///
/// # Errors
/// As [`device_of`].
pub fn device_of_plan(plan: &Plan) -> Result<Device> {
    opened(&plan.recipe.device, &plan.missing)
}

fn opened(device: &str, missing: &[Missing]) -> Result<Device> {
    if let Some(missing) = missing.first() {
        bail!("{missing}");
    }
    DeviceChoice::parse(device).and_then(ops::open).context("device")
}

/// The micro-batch where the recipe leaves it to the run, with what was measured; nothing where it is a number.
///
/// # Errors
/// As [`MicroBatch::fitting`].
pub fn micro_batch_of(job: &Job) -> Result<Option<MicroBatch>> {
    match job {
        Job::Diffusion(plan) => micro_batch_of_plan(plan),
        Job::Program(_) => Ok(None),
    }
}

/// The same for a recipe with a diffusion model.
///
/// # Errors
/// As [`MicroBatch::fitting`].
pub fn micro_batch_of_plan(plan: &Plan) -> Result<Option<MicroBatch>> {
    let is_auto = plan.recipe.train.micro_batch_size == MicroBatchSize::Auto;
    if is_auto { MicroBatch::fitting(plan).map(Some) } else { Ok(None) }
}

/// Steps, batch and rate of a recipe of either sort.
pub fn train_section(job: &Job) -> &TrainSection {
    match job {
        Job::Diffusion(plan) => &plan.recipe.train,
        Job::Program(plan) => &plan.recipe.train,
    }
}
