//! One optimizer step, and the state that steps change.

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};

use super::assembly::Assembly;
use super::ema::Ema;
use super::model::{TrainModel, build_model};
use super::optimizer::{Gradients, Optimizer, OptimizerSettings};
use super::schedule::learning_rate;
use crate::data::loader::{Loader, LoaderConfig};
use crate::ops::{self, JvpMethod};
use crate::recipe::Plan;
use crate::streams::Streams;
use crate::weights::to_host;

/// Factor on times above which central differences of a network are wrong in their first digits.
const MAX_DIFFERENCE_TIME_SCALE: f64 = 10.0;

/// A run in memory: what is trained, and how far it is.
#[derive(Debug)]
pub struct Trainer {
    /// Everything that is not trained.
    pub assembly: Assembly,
    /// Optimizer steps done.
    pub step: u64,
    /// The trained weights.
    pub model: TrainModel,
    /// AdamW and its moments.
    pub optimizer: Optimizer,
    /// Moving averages, in the recipe's order.
    pub emas: Vec<Ema>,
    loader: Option<Loader>,
    /// Samples per forward pass, and passes per optimizer step.
    micro_batches: [usize; 2],
    is_torn: bool,
}

/// What one step measured; the numbers stay on the device until [`read`](Self::read).
pub struct StepStats {
    /// Learning rate that was used.
    pub learning_rate: f64,
    /// Seconds spent waiting for data.
    pub wait_s: f64,
    scalars: Vec<(String, Tensor<1>)>,
}

impl StepStats {
    pub(super) fn new(learning_rate: f64, wait_s: f64, scalars: Vec<(String, Tensor<1>)>) -> Self {
        Self { learning_rate, wait_s, scalars }
    }

    /// All scalars by tag, averaged over micro-batches.
    ///
    /// # Errors
    /// One of them is not finite.
    pub fn read(self) -> Result<Vec<(String, f64)>> {
        let mut read: Vec<(String, f64)> = vec![];
        let mut counts: Vec<u32> = vec![];
        let (tags, values): (Vec<_>, Vec<_>) = self.scalars.into_iter().unzip();
        let values = ops::guard(|| Ok(all_to_host(values)))?;
        for (tag, value) in tags.into_iter().zip(values.into_iter().map(f64::from)) {
            match read.iter().position(|(known, _)| *known == tag) {
                Some(at) => {
                    read[at].1 += value;
                    counts[at] += 1;
                }
                None => {
                    read.push((tag, value));
                    counts.push(1);
                }
            }
        }
        for ((_, value), count) in read.iter_mut().zip(counts) {
            *value /= f64::from(count);
        }
        read.push(("train/lr".into(), self.learning_rate));
        if let Some((tag, value)) = read.iter().find(|(_, value)| !value.is_finite()) {
            bail!("`{tag}` is {value}");
        }
        Ok(read)
    }
}

/// The numbers of tensors of one element, in one read.
fn all_to_host(scalars: Vec<Tensor<1>>) -> Vec<f32> {
    if scalars.is_empty() {
        return vec![];
    }
    to_host(Tensor::cat(scalars.into_iter().map(Tensor::inner).collect(), 0))
}

impl Trainer {
    /// A run at step 0.
    ///
    /// # Errors
    /// As [`Assembly::new`] and [`build_model`]; or the device only estimates derivatives, and the network is too steep.
    pub fn new(plan: &Plan) -> Result<Self> {
        let assembly = Assembly::new(plan)?;
        derivative_is_possible(plan, &assembly.device)?;
        let train = &plan.recipe.train;
        let model = build_model(plan, &assembly.device.clone().autodiff())?;
        let optimizer = Optimizer::new(&model, OptimizerSettings::new(train));
        let emas = train.ema.iter().map(|ema| Ema::new(&model, ema.clone())).collect::<Result<_>>()?;
        let micro_batches = [train.micro_batch(), train.global_batch_size / train.micro_batch().max(1)];
        Ok(Self { assembly, step: 0, model, optimizer, emas, loader: None, micro_batches, is_torn: false })
    }

    /// Samples per forward pass.
    pub fn micro_batch_size(&self) -> usize {
        self.micro_batches[0]
    }

    /// Takes so many samples in each of so many forward passes from the next step on.
    pub fn set_micro_batches(&mut self, micro_batch_size: usize, count: usize) {
        (self.micro_batches, self.loader) = ([micro_batch_size, count], None);
    }

    /// Whether an update failed half-way, so that weights and moments are of no step.
    pub fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// One optimizer step: gradients over all micro-batches, clip, AdamW, moving averages.
    ///
    /// # Errors
    /// Data cannot be read, or the tensor library fails. The state is then that of the step before, unless
    /// [`is_torn`](Self::is_torn).
    pub fn step(&mut self, plan: &Plan) -> Result<StepStats> {
        self.assembly.precision.scope(|| self.advance(plan))
    }

    fn advance(&mut self, plan: &Plan) -> Result<StepStats> {
        let train = &plan.recipe.train;
        let [_, micro_batches] = self.micro_batches;
        let streams = Streams::new(plan.recipe.seed);
        let (mut gradients, mut scalars, mut wait_s) = (Gradients::default(), vec![], 0.0);
        for micro in 0..micro_batches as u64 {
            let batch = self.loader(plan)?.next()?;
            wait_s += batch.wait_s;
            let loss = ops::guard(|| self.assembly.loss(&self.model, &batch, &streams.at(self.step, micro)))?;
            scalars.extend(loss.scalars);
            ops::guard(|| {
                gradients.add_loss(&self.model, loss.total / micro_batches as f64);
                Ok(())
            })?;
        }
        let learning_rate = learning_rate(train, self.step);
        self.is_torn = true;
        let norm = ops::guard(|| {
            let norm = self.optimizer.step(&mut self.model, gradients, learning_rate);
            for ema in &mut self.emas {
                ema.update(&self.model, self.step);
            }
            Ok(norm)
        })?;
        self.is_torn = false;
        self.step += 1;
        scalars.push(("train/grad_norm".into(), norm));
        Ok(StepStats { learning_rate, wait_s, scalars })
    }

    fn loader(&mut self, plan: &Plan) -> Result<&mut Loader> {
        if self.loader.is_none() {
            let recipe = &plan.recipe;
            let config = LoaderConfig {
                batch_size: self.micro_batches[0],
                micro_batches_per_step: self.micro_batches[1],
                num_workers: recipe.loader.num_workers,
                prefetch: recipe.loader.prefetch,
                seed: recipe.seed,
                flip: recipe.flip,
                start_step: self.step,
            };
            self.loader = Some(Loader::new(self.assembly.dataset.clone(), config)?);
        }
        self.loader.as_mut().context("the loader did not start")
    }

    /// The average called `name`, or the trained weights for `model`, without autodiff.
    ///
    /// # Errors
    /// There is no such average.
    pub fn weights(&self, name: &str) -> Result<TrainModel> {
        use burn::module::Module;
        if name == "model" {
            return Ok(self.model.valid());
        }
        let ema = self.emas.iter().find(|ema| ema.settings.name == name);
        Ok(ema.with_context(|| format!("no moving average is called `{name}`"))?.model().clone())
    }
}

/// Refuses to estimate by differences what changes too fast for them.
fn derivative_is_possible(plan: &Plan, device: &Device) -> Result<()> {
    let (recipe, scale) = (&plan.recipe, plan.recipe.backbone.time_scale());
    let is_estimated = JvpMethod::of(device) == JvpMethod::CentralDifference;
    if recipe.objective.takes_derivative() && is_estimated && scale > MAX_DIFFERENCE_TIME_SCALE {
        bail!(
            "objective `{}` differentiates the network by time, which flex does by differences, and \
             backbone.time_scale `{scale}` is too steep for them; set it to {MAX_DIFFERENCE_TIME_SCALE} or below, or use \
             `device: cpu` (libtorch), whose derivatives are exact",
            (recipe.objective.info().name)()
        )
    }
    Ok(())
}
