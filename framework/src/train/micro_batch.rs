//! The samples of a forward pass that fit into memory, measured by a few trial steps.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use burn::tensor::Device;

use super::trainer::Trainer;
use crate::ops::{self, DeviceChoice, OutOfMemory, Recorder, gigabytes};
use crate::recipe::{MicroBatchSize, Plan};

/// Sizes that are measured where the batch has as many samples, else the second pair: few, and enough for objectives
/// that treat parts of a batch differently.
const SIZES: [[usize; 2]; 2] = [[4, 8], [1, 2]];
/// Share of the free memory that a run takes where the recipe gives no limit: blocks of memory do not fit seamlessly.
const CUDA_SHARE: f64 = 0.9;
/// The same on a CPU, which other programs share.
const CPU_SHARE: f64 = 0.8;
/// Where `run.json` keeps the size.
pub(super) const KEY: &str = "micro_batch_size";

/// What a run's forward passes take, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Samples per forward pass.
    pub samples: usize,
    /// What was measured; nothing where nothing had to be.
    pub note: Option<String>,
}

impl MicroBatch {
    /// The recipe's number, else what the run in this folder took before, else the largest that fits.
    ///
    /// # Errors
    /// As [`fitting`](Self::fitting).
    pub fn of_run(plan: &Plan, run_dir: &Path) -> Result<Self> {
        match plan.recipe.train.micro_batch_size {
            MicroBatchSize::Samples(samples) => Ok(Self { samples, note: None }),
            MicroBatchSize::Auto => match remembered(run_dir, &plan.digest()?) {
                Some(samples) if plan.recipe.train.global_batch_size.is_multiple_of(samples) => {
                    Ok(Self { samples, note: Some(format!("train.micro_batch_size: {samples}, as the run began")) })
                }
                _ => Self::fitting(plan),
            },
        }
    }

    /// The largest divisor of the batch whose step fits: foretold from trial steps of two small sizes, because memory
    /// grows about linearly with the samples, then tried.
    ///
    /// # Errors
    /// Not even one sample fits, the device is not one of libtorch, or a step fails.
    pub fn fitting(plan: &Plan) -> Result<Self> {
        let device = DeviceChoice::parse(&plan.recipe.device).and_then(ops::open)?;
        let is_cpu = !ops::is_cuda(&device);
        // What the program holds beside tensors; a GPU's free memory leaves it out already.
        let beside = if is_cpu { ops::resident_memory().unwrap_or(0) } else { 0 };
        let train = &plan.recipe.train;
        let limit = match train.memory_limit {
            Some(limit) => limit * 1e9,
            None if is_cpu => ops::free_memory(&device)? as f64 * CPU_SHARE + beside as f64,
            None => ops::free_memory(&device)? as f64 * CUDA_SHARE,
        };
        let line = Line::through(measure(plan, &device)?.map(|(samples, bytes)| (samples, bytes + beside)));
        let few = line.measured[0].0;
        let tried = line.largest_tried(train.global_batch_size, limit, |samples| {
            let tried = trial(plan, &device, [few.min(samples), samples])?;
            Ok(tried.ok().map(|[_, (_, bytes)]| bytes + beside))
        });
        ops::restart_peak_memory(&device);
        let tried = tried?;
        let (samples, bytes) = tried.map_err(|one| too_large(&line, one, limit))?;
        let [small, large] =
            line.measured.map(|(samples, bytes)| format!("{} with {samples}", gigabytes(bytes as f64)));
        let note = format!(
            "train.micro_batch_size: {samples}, because a step takes {small} and {large} samples and {} with {samples}, and \
             {} are allowed",
            gigabytes(bytes as f64),
            gigabytes(limit)
        );
        Ok(Self { samples, note: Some(note) })
    }
}

/// Memory by samples of a forward pass.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    measured: [(usize, u64); 2],
}

impl Line {
    fn through(measured: [(usize, u64); 2]) -> Self {
        Self { measured }
    }

    /// As measured, else on the line through both points.
    fn bytes(&self, samples: usize) -> f64 {
        if let Some((_, bytes)) = self.measured.iter().find(|(known, _)| *known == samples) {
            return *bytes as f64;
        }
        let [(few, low), (many, high)] = self.measured.map(|(samples, bytes)| (samples as f64, bytes as f64));
        let slope = if many > few { ((high - low) / (many - few)).max(0.0) } else { 0.0 };
        low + slope * (samples as f64 - few)
    }

    /// The largest divisor of the batch that fits, with its bytes: of those that should, the first whose trial does.
    /// Where none does, what one sample takes.
    ///
    /// `trial` returns the bytes of a step of so many samples, or nothing where memory ended.
    fn largest_tried(
        &self,
        global_batch_size: usize,
        limit: f64,
        mut trial: impl FnMut(usize) -> Result<Option<u64>>,
    ) -> Result<Result<(usize, u64), OneSample>> {
        let mut one = OneSample::Foretold(self.bytes(1));
        let divisors = (1..=global_batch_size).rev().filter(|samples| global_batch_size.is_multiple_of(*samples));
        for samples in divisors.filter(|samples| self.bytes(*samples) <= limit) {
            let known = self.measured.iter().find(|(known, _)| *known == samples).map(|(_, bytes)| *bytes);
            let bytes = if known.is_some() { known } else { trial(samples)? };
            if let Some(bytes) = bytes.filter(|bytes| *bytes as f64 <= limit) {
                return Ok(Ok((samples, bytes)));
            }
            one = match (samples, bytes) {
                (1, Some(bytes)) => OneSample::Measured(bytes as f64),
                (1, None) => OneSample::BeyondMemory,
                _ => one,
            };
        }
        Ok(Err(one))
    }
}

/// What a step of one sample takes where none fits, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum OneSample {
    Measured(f64),
    Foretold(f64),
    BeyondMemory,
}

fn too_large(line: &Line, one: OneSample, limit: f64) -> anyhow::Error {
    let takes = match one {
        OneSample::Measured(bytes) => gigabytes(bytes),
        OneSample::Foretold(bytes) => format!("about {}", gigabytes(bytes)),
        OneSample::BeyondMemory => "more than there is".into(),
    };
    let measured = line.measured.map(|(samples, bytes)| format!("{} with {samples}", gigabytes(bytes as f64)));
    anyhow!(
        "train.memory_limit: a step of one sample alone takes {takes}, and {} are allowed (measured: {} samples); raise \
         the limit, set train.activation_checkpointing or precision `bf16`, or take a smaller backbone, image_size or \
         number of train.ema, or a larger backbone.patch_size",
        gigabytes(limit),
        measured.join(", ")
    )
}

/// Bytes of tensors at the height of a step, by samples of its forward passes.
fn measure(plan: &Plan, device: &Device) -> Result<[(usize, u64); 2]> {
    let global = plan.recipe.train.global_batch_size;
    let mut problem = None;
    for sizes in SIZES.into_iter().filter(|[_, many]| *many <= global).chain((global == 1).then_some([1, 1])) {
        match trial(plan, device, sizes)? {
            Ok(peaks) => return Ok(peaks),
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(problem) => Err(problem.context("no trial step fits; take a smaller backbone or image_size")),
        None => bail!("train.global_batch_size is `{global}`"),
    }
}

/// [`peaks`], or that memory ended; the device has then as much as before.
fn trial(plan: &Plan, device: &Device, sizes: [usize; 2]) -> Result<Result<[(usize, u64); 2]>> {
    let tried = ops::guard(|| peaks(plan, device, sizes));
    ops::release_memory(device);
    match tried {
        Err(error) if !error.is::<OutOfMemory>() => Err(error),
        tried => Ok(tried),
    }
}

fn peaks(plan: &Plan, device: &Device, sizes: [usize; 2]) -> Result<[(usize, u64); 2]> {
    // Opened before anything is built, so that all memory is seen.
    let recorder = Recorder::open(device)?;
    let mut trainer = Trainer::new(plan)?;
    // Two passes, because their gradients live beside one another.
    let mut step = |samples| {
        trainer.set_micro_batches(samples, 2);
        trainer.step(plan)?.read()
    };
    step(sizes[0])?; // makes the values of parameters, which a step does once
    let mut peak = |samples| -> Result<(usize, u64)> {
        recorder.restart()?;
        step(samples)?;
        Ok((samples, recorder.memory()?[1]))
    };
    Ok([peak(sizes[0])?, peak(sizes[1])?])
}

/// What the run in this folder took, where it is one of the same recipe.
fn remembered(run_dir: &Path, digest: &str) -> Option<usize> {
    let text = fs::read_to_string(run_dir.join("run.json")).ok()?;
    let about: serde_json::Value = serde_json::from_str(&text).ok()?;
    let is_same = about["recipe_digest"] == digest;
    usize::try_from(about[KEY].as_u64()?).ok().filter(|samples| is_same && *samples > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_divisor_that_fits_is_chosen() {
        let line = Line::through([(4, 1400), (8, 1800)]); // 1000 and 100 for each sample
        let largest = |batch, limit| {
            let tried = line.largest_tried(batch, limit, |samples| Ok(Some(line.bytes(samples) as u64))).unwrap();
            tried.map(|(samples, _)| samples).ok()
        };
        assert_eq!(largest(24, 1e9), Some(24));
        assert_eq!(largest(24, 3000.0), Some(12), "24 would take 3400");
        assert_eq!(largest(24, 1799.0), Some(6), "between two sizes, the smaller one");
        assert_eq!(largest(7, 1500.0), Some(1), "a prime has no other divisor");
        assert_eq!(largest(24, 1099.0), None);
    }

    #[test]
    fn a_size_whose_trial_takes_more_than_foretold_is_passed_over() {
        let line = Line::through([(4, 1400), (8, 1800)]);
        let mut tried = vec![];
        let steep = |samples: usize| (samples < 24).then_some(if samples == 12 { 2600 } else { 2000 });
        let found = line.largest_tried(24, 2500.0 + 1000.0, |samples| {
            tried.push(samples);
            Ok(steep(samples))
        });
        assert_eq!((found.unwrap(), tried), (Ok((12, 2600)), vec![24, 12]), "memory ended with 24");
        let found = line.largest_tried(24, 2500.0, |samples| Ok(steep(samples)));
        assert_eq!(found.unwrap(), Ok((8, 1800)), "12 take more than is allowed, and 8 were measured before");
    }

    #[test]
    fn where_nothing_fits_the_error_says_what_one_sample_takes() {
        let line = Line::through([(4, 1400), (8, 1800)]);
        let one = |limit, trial: Option<u64>| line.largest_tried(1, limit, |_| Ok(trial)).unwrap().unwrap_err();
        assert_eq!(one(1000.0, Some(900)), OneSample::Foretold(1100.0), "not tried");
        assert_eq!(one(1200.0, Some(1300)), OneSample::Measured(1300.0));
        assert_eq!(one(1200.0, None), OneSample::BeyondMemory);
        let said = |one| too_large(&line, one, 1.2e9).to_string();
        assert!(said(OneSample::Measured(1.3e9)).contains("one sample alone takes 1.30 GB, and 1.20 GB are allowed"));
        assert!(said(OneSample::BeyondMemory).contains("takes more than there is"));
    }

    #[test]
    fn a_size_that_was_measured_counts_as_measured() {
        let line = Line::through([(1, 1000), (2, 900)]);
        assert_eq!([1, 2, 30].map(|samples| line.bytes(samples)), [1000.0, 900.0, 1000.0]);
    }
}
