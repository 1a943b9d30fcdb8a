//! `realign probe`: how much encoders' features say about whole pictures.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use realign::burn::tensor::Device;
use realign::eval::probe::{Knn, LinearProbe, ProbeFeatures, encode, knn_accuracy, linear_probe};
use realign::ops::{self, DeviceChoice};
use realign::plugin::Dataset;

use crate::measuring::{EncoderArgs, NamedEncoder, context, read_dataset};
use crate::table::{Table, number};

/// Accuracy of linear and nearest-neighbor probes on encoders' features
#[derive(Debug, Args)]
pub struct Probe {
    #[command(flatten)]
    encoders: EncoderArgs,
    /// Pictures with classes, as in a recipe: `{type: image_folder, path: FILE, split: train}`, `shapes`
    #[arg(long, value_name = "DATA")]
    train: String,
    /// Pictures to judge on, with the same classes; every tenth of `--train` when left out
    #[arg(long, value_name = "DATA")]
    val: Option<String>,
    /// `knn`: nearest neighbors. `cached`: a linear probe on features encoded once. `mae`: MAE's protocol, in which
    /// every epoch encodes new random crops
    #[arg(long, value_enum, default_value_t = Protocol::Cached)]
    protocol: Protocol,
    /// Epochs of the linear probe; MAE has 90
    #[arg(long, default_value_t = 90)]
    epochs: u64,
    /// Pictures taken of each set, evenly; 0 takes all
    #[arg(long, default_value_t = 0)]
    num: usize,
    /// Side of the pictures that encoders get, in pixels
    #[arg(long, default_value_t = 256)]
    image_size: usize,
    /// Rows and columns of tokens, for encoders that follow the network's grid
    #[arg(long, default_value_t = 16)]
    grid: usize,
    /// Pictures encoded at once
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Seed of weights, order and crops
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to compute: `auto`, `cpu`, `flex`, `cuda`
    #[arg(long, default_value = "auto")]
    device: String,
    /// Write the table to this CSV file, which `correlate` reads
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// What is trained on the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Knn,
    Cached,
    Mae,
}

/// Pictures of one set.
struct Set {
    dataset: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Probe {
    /// Encodes, trains, prints.
    ///
    /// # Errors
    /// An encoder or a data set is not what it should be.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        ensure!(self.epochs > 0, "--epochs must be at least 1");
        ensure!((1..=4096).contains(&self.image_size), "--image-size {}: allowed is 1 to 4096", self.image_size);
        ensure!((1..=256).contains(&self.grid), "--grid {}: allowed is 1 to 256", self.grid);
        let encoders = self.encoders.some()?;
        let device = DeviceChoice::parse(&self.device).and_then(ops::open).context("--device")?;
        let (train, val) = self.sets()?;
        let mut table = Table::new(["encoder", "knn", "knn_class_token", "linear_probe", "linear_probe_last"]);
        for encoder in &encoders {
            let probed = self.probe(encoder, &train, &val, &device);
            let accuracies = probed.with_context(|| format!("encoder `{}`", encoder.label))?;
            let cells = accuracies.map(|share| number(share * 100.0, 2));
            table.rows.push(std::iter::once(encoder.label.clone()).chain(cells).collect());
        }
        write!(out, "{}", table.to_text())?;
        writeln!(
            out,
            "top-1 accuracy in percent on {} pictures, trained on {}, of {} classes",
            val.indices.len(),
            train.indices.len(),
            train.dataset.num_classes()
        )?;
        if let Some(path) = &self.csv {
            table.write_csv(path)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn sets(&self) -> Result<(Set, Set)> {
        let train = read_dataset("--train", &self.train, self.image_size, self.seed)?;
        let evenly = |all: usize| {
            let count = if self.num == 0 { all } else { self.num.min(all) };
            (0..count).map(|i| i * all / count.max(1)).collect::<Vec<usize>>()
        };
        let Some(val) = &self.val else {
            let (judged, learned): (Vec<(usize, usize)>, Vec<_>) =
                evenly(train.len()).into_iter().enumerate().partition(|(place, _)| place % 10 == 9);
            ensure!(!judged.is_empty(), "--train {}: ten pictures are the least, or give --val", self.train);
            let set = |places: Vec<(usize, usize)>| Set {
                dataset: train.clone(),
                indices: places.into_iter().map(|(_, idx)| idx).collect(),
            };
            return Ok((set(learned), set(judged)));
        };
        let val = read_dataset("--val", val, self.image_size, self.seed)?;
        let names = |data: &Arc<dyn Dataset>| (0..data.num_classes()).map(|l| data.class_name(l)).collect::<Vec<_>>();
        ensure!(
            names(&train) == names(&val),
            "--train and --val have different classes: {} and {}",
            train.num_classes(),
            val.num_classes()
        );
        let set = |dataset: Arc<dyn Dataset>| Set { indices: evenly(dataset.len()), dataset };
        Ok((set(train), set(val)))
    }

    /// Shares: nearest neighbors on mean patch tokens and on class tokens, best and last of the linear probe.
    fn probe(&self, encoder: &NamedEncoder, train: &Set, val: &Set, device: &Device) -> Result<[f64; 4]> {
        let context = context(self.image_size, self.grid, &self.encoders.weights_dir);
        let (_, built) = encoder.build(&context, device)?;
        let features = |set: &Set, epoch: Option<(u64, u64)>| {
            encode(&*built, &*set.dataset, &set.indices, self.batch, epoch, device).map(Arc::new)
        };
        let (known, asked) = (features(train, None)?, features(val, None)?);
        let knn = |of: fn(&ProbeFeatures) -> Option<&Vec<f32>>| match (of(&known), of(&asked)) {
            (Some(a), Some(b)) => knn_accuracy(a, &known.labels, b, &asked.labels, Knn::default()),
            _ => f64::NAN,
        };
        let neighbors = [knn(|features| Some(&features.mean)), knn(|features| features.class_token.as_ref())];
        let settings = match self.protocol {
            Protocol::Knn => return Ok([neighbors[0], neighbors[1], f64::NAN, f64::NAN]),
            Protocol::Cached => LinearProbe::cached(train.indices.len()),
            Protocol::Mae => LinearProbe::default(),
        };
        let warmup_epochs = settings.warmup_epochs.min(self.epochs / 4);
        let settings = LinearProbe { epochs: self.epochs, warmup_epochs, seed: self.seed, ..settings };
        let report =
            linear_probe(settings, train.dataset.num_classes(), &asked, device, |epoch| match self.protocol {
                Protocol::Mae => features(train, Some((self.seed, epoch))),
                _ => Ok(known.clone()),
            })?;
        Ok([neighbors[0], neighbors[1], report.best_val_acc, report.last_val_acc])
    }
}
