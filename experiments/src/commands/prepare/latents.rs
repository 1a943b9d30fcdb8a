//! `realign prepare latents`: a data set's latents, computed once.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use indicatif::ProgressBar;
use realign::data::latent_cache::{CacheSettings, CacheWriter, STATISTICS, ShardContents, picture_digest};
use realign::data::latents::Posterior;
use realign::erase::Slot;
use realign::ops::{self, DeviceChoice, Precision};
use realign::plugin::{AutoencoderKind, Dataset, Example, Variational};
use realign::recipe::Plan;
use realign::weights::{digest, to_host};

use crate::commands::recipe_args::{RecipeArgs, check_device};
use crate::progress::pictures_bar;

const READY: usize = 2; // batches read ahead of the encoder

/// Compute the latents of a recipe's pictures with its autoencoder; the same command again goes on
#[derive(Debug, Args)]
pub struct Latents {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder of the cache
    #[arg(long)]
    out: PathBuf,
    /// Pictures encoded at once
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Pictures of a file; an interrupted run repeats at most one file's
    #[arg(long, default_value_t = 1024)]
    shard: usize,
}

impl Latents {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (layered, plan) = self.recipe.plan()?;
        check_device(&layered, &plan.recipe.device, Precision::F32)?; // whatever trains on them rounds them itself
        let device = DeviceChoice::parse(&plan.recipe.device).and_then(ops::open).context("device")?;
        let dataset = plan.recipe.data.open(&plan.dataset_context()).context("data")?;
        ensure!(dataset.latents().is_none(), "data: these are cached latents already; name the pictures");
        let autoencoder = autoencoder(&plan, &device)?;
        let name = (plan.recipe.autoencoder.info().name)();
        let variational = autoencoder.variational();
        let variational = variational.with_context(|| format!("autoencoder `{name}` has no latents to keep"))?;
        let settings = CacheSettings::new(
            (name, digest(&autoencoder)),
            plan.latent,
            plan.recipe.image_size,
            (0..dataset.num_classes()).map(|label| dataset.class_name(label)).collect(),
            [dataset.len(), self.batch, self.shard],
        )?;
        let writer = CacheWriter::open(&self.out, settings)?;
        encode_missing(&writer, &*dataset, variational, &device, out)?;
        let count = writer.settings().count;
        let norm = writer.finish()?;
        let place = self.out.display();
        writeln!(out, "{count} latents of {:?} in {place}", plan.latent)?;
        writeln!(out, "channel means {:?} and scales {:?} in {place}/{STATISTICS}", norm.bias(), norm.scale())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn autoencoder(plan: &Plan, device: &Device) -> Result<Slot<AutoencoderKind>> {
    let recipe = &plan.recipe;
    let built = recipe.autoencoder.build_unnormalized(&recipe.weights_dir, device);
    let needed = || match recipe.autoencoder.weights(&recipe.weights_dir).into_iter().find(|file| !file.path.exists()) {
        Some(file) => format!("autoencoder needs `{}`; get it with `{}`", file.path.display(), file.command),
        None => "autoencoder".into(),
    };
    Ok(Slot::new(built.with_context(needed)?))
}

/// Examples of one batch, and the shard that they belong to.
struct Batch {
    shard: usize,
    is_last: bool,
    examples: Vec<Example>,
}

/// Encodes and writes all shards that are not there yet, while a thread reads ahead.
fn encode_missing(
    writer: &CacheWriter,
    dataset: &dyn Dataset,
    variational: &dyn Variational,
    device: &Device,
    out: &mut dyn Write,
) -> Result<()> {
    let settings = writer.settings();
    let shards: Vec<usize> = (0..settings.num_shards()).filter(|shard| !writer.has(*shard)).collect();
    let missing: usize = shards.iter().map(|shard| settings.examples(*shard).len()).sum();
    if missing < settings.count {
        writeln!(out, "going on: {} of {} latents are there", settings.count - missing, settings.count)?;
    }
    let bar = pictures_bar(settings.count);
    bar.set_position((settings.count - missing) as u64);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(READY);
        scope.spawn(move || read_ahead(settings, dataset, &shards, &sender));
        write_shards(writer, receiver, variational, device, (out, &bar))
    })?;
    bar.finish_and_clear();
    Ok(())
}

fn write_shards(
    writer: &CacheWriter,
    batches: Receiver<Result<Batch>>, // owned: dropped at an error, so that the reading thread ends
    variational: &dyn Variational,
    device: &Device,
    (out, bar): (&mut dyn Write, &ProgressBar),
) -> Result<()> {
    let (mut contents, mut begin) = (ShardContents::default(), Instant::now());
    for batch in batches {
        let batch = batch?;
        contents.moments.extend(ops::guard(|| moments(&batch.examples, variational, device))?);
        for example in &batch.examples {
            contents.labels.push(i64::try_from(example.label)?);
            contents.pictures.extend(picture_digest(&example.image));
        }
        bar.inc(batch.examples.len() as u64);
        if batch.is_last {
            writer.write(batch.shard, &contents)?;
            let (count, seconds) = (contents.labels.len(), begin.elapsed().as_secs_f64());
            let shards = writer.settings().num_shards();
            let rate = count as f64 / seconds;
            let file = batch.shard + 1;
            // Nobody may read this any more; the work goes on.
            let _ = writeln!(out, "file {file} of {shards}: {count} latents in {seconds:.2} s, {rate:.2} pictures/s");
            let _ = out.flush();
            (contents, begin) = (ShardContents::default(), Instant::now());
        }
    }
    Ok(())
}

/// Mean and deviation of each example.
fn moments(examples: &[Example], variational: &dyn Variational, device: &Device) -> Result<Vec<f32>> {
    let Some(first) = examples.first() else { return Ok(vec![]) };
    let (width, height) = (first.image.width(), first.image.height());
    let mut pixels = Vec::with_capacity(examples.len() * width * height * 3);
    for example in examples {
        let (found, size) = (example.image.width(), example.image.height());
        ensure!((found, size) == (width, height), "pictures of {found} x {size} and {width} x {height} pixels");
        pixels.extend(example.image.pixels().iter().map(|byte| f32::from(*byte)));
    }
    let pictures = Tensor::<4>::from_data(TensorData::new(pixels, [examples.len(), height, width, 3]), device);
    let posterior = Posterior::new(variational.moments(pictures.permute([0, 3, 1, 2])));
    let values = to_host(Tensor::cat(vec![posterior.mean.clone(), posterior.deviation()], 1));
    if values.iter().any(|value| !value.is_finite()) {
        bail!("a latent is not finite; are these the autoencoder's weights?")
    }
    Ok(values)
}

/// Sends the batches of all shards in order, and the first error in its place.
fn read_ahead(settings: &CacheSettings, dataset: &dyn Dataset, shards: &[usize], sender: &SyncSender<Result<Batch>>) {
    for &shard in shards {
        let Range { mut start, end } = settings.examples(shard);
        while start < end {
            let stop = (start + settings.batch_size).min(end);
            let read = |idx| dataset.get(idx).map_err(|problem| anyhow!("example {idx}: {problem:#}"));
            let batch = (start..stop).map(read).collect::<Result<Vec<_>>>();
            let batch = batch.map(|examples| Batch { shard, is_last: stop == end, examples });
            let is_over = batch.is_err();
            if sender.send(batch).is_err() || is_over {
                return; // the receiver has stopped, or will
            }
            start = stop;
        }
    }
}
