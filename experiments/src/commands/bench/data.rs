//! Batches of pictures from JPEG files, and an encoder's preprocessing, here and in PyTorch, alternately.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use realign::burn::tensor::{Tensor, TensorData};
use realign::data::loader::{Loader, LoaderConfig};
use realign::ops::{self, DeviceChoice};
use realign::plugin::{DatasetConfig, DatasetContext};
use realign::streams::Streams;
use realign::weights::to_host;
use realign_plugins::encoders::vit::preprocess::Preprocessing;
use serde_json::{Value, json};

use super::Timing;
use super::network::plugin;
use super::torch::TorchStep;

const SCRIPT: &str = concat!(include_str!("torch_serve.py"), include_str!("torch_data.py"));
const SIDE: usize = 256;
const NETWORK_SIDE: usize = 224; // of DINOv2
/// Widths and heights, as ImageNet has them.
const SIZES: [[usize; 2]; 4] = [[500, 375], [375, 500], [500, 333], [800, 600]];

/// Decoding, cropping and an encoder's preprocessing here and in PyTorch, with equal numbers of threads
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Pictures of a batch
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// JPEG files that are made for it
    #[arg(long, default_value_t = 64)]
    pictures: usize,
    /// Loader threads here and loader processes there; 0 prepares batches on the calling thread
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Threads of the preprocessing
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Rounds; each runs both programs in turn
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Batches of each program per round
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// Python with PyTorch, torchvision and Pillow
    #[arg(long, default_value = "python3")]
    python: String,
}

impl DataArgs {
    /// Times and prints.
    ///
    /// # Errors
    /// PyTorch or torchvision cannot be run, or a program ends early.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut torch = self.torch("load", folder.path().to_string_lossy().as_ref())?;
        writeln!(
            out,
            "batches of {} pictures, {} loader threads, {} threads of preprocessing, PyTorch {}",
            self.batch, self.workers, self.threads, torch.version
        )?;
        writeln!(out, "  {:32} {:>9} {:>10} {:>11} {:>7}", "", "min ms", "median ms", "pictures/s", "ratio")?;
        let config: Box<dyn DatasetConfig> = plugin(json!({"type": "image_folder", "path": folder.path()}))?;
        let data: Arc<_> = config.open(&DatasetContext { image_size: SIDE, seed: 0 })?.into();
        let settings = LoaderConfig {
            batch_size: self.batch,
            micro_batches_per_step: 1,
            num_workers: self.workers,
            prefetch: 2 * self.workers,
            seed: 0,
            flip: 0.5,
            start_step: 0,
        };
        let mut loader = Loader::new(data, settings)?;
        let times = self.alternate(&mut torch, || loader.next().map(drop))?;
        self.report("decode, crop, flip, batch", &times, out)?;

        let mut torch = self.torch("preprocess", "")?;
        ops::set_num_threads(self.threads);
        let device = ops::open(DeviceChoice::Cpu)?;
        let shape = [self.batch, 3, SIDE, SIDE];
        let values = Streams::new(1).uniform("pictures", shape.iter().product());
        let values: Vec<f32> = values.into_iter().map(|u| u * 255.0).collect();
        let pictures = Tensor::<4>::from_data(TensorData::new(values, shape), &device);
        let times = self.alternate(&mut torch, || {
            let pixels = Preprocessing::default().apply(pictures.clone(), [NETWORK_SIDE; 2]);
            to_host(pixels.narrow(0, 0, 1).narrow(2, 0, 1)); // waits for the device
            Ok(())
        })?;
        self.report("resize to 224, normalize", &times, out)
    }

    fn torch(&self, task: &str, folder: &str) -> Result<TorchStep> {
        let settings: Value = json!({
            "task": task, "folder": folder, "pictures": self.pictures, "sizes": SIZES, "size": SIDE,
            "batch": self.batch, "workers": self.workers, "threads": self.threads,
        });
        TorchStep::start_script(&self.python, SCRIPT, &settings)
    }

    /// Times of both programs; the first round warms caches.
    fn alternate(&self, torch: &mut TorchStep, mut step: impl FnMut() -> Result<()>) -> Result<[Timing; 2]> {
        let mut times = [Timing::default(), Timing::default()];
        for round in 0..=self.rounds {
            let mut ours = Timing::default();
            for _ in 0..self.steps {
                let begin = Instant::now();
                step()?;
                ours.ms.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            for (all, new) in times.iter_mut().zip([ours, torch.steps(self.steps)?]) {
                if round > 0 {
                    all.ms.extend(new.ms);
                }
            }
        }
        Ok(times)
    }

    fn report(&self, what: &str, [ours, theirs]: &[Timing; 2], out: &mut dyn Write) -> Result<()> {
        writeln!(out, "{what}")?;
        for (name, timing) in [("realign", ours), ("PyTorch, torchvision, Pillow", theirs)] {
            // The mean over the batches: with loader threads single ones come at once or after a wait.
            let mean = timing.ms.iter().sum::<f64>() / timing.ms.len().max(1) as f64;
            let per_second = self.batch as f64 * 1e3 / mean;
            let ratio = ours.median() / timing.median();
            let (min, median) = (timing.min(), timing.median());
            writeln!(out, "  {name:32} {min:9.2} {median:10.2} {per_second:11.0} {ratio:7.3}")?;
        }
        Ok(())
    }
}
