//! Batches prepared ahead of the trainer, in an order that no worker can change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::data::order::Order;
use crate::plugin::dataset::Dataset;
use crate::streams::Streams;

/// How a [`Loader`] cuts and prepares batches.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Examples of one micro-batch, at least 1.
    pub batch_size: usize,
    /// Micro-batches of one optimizer step, at least 1.
    pub micro_batches_per_step: usize,
    /// Threads that read and decode; 0 prepares each batch inside [`Loader::next`].
    pub num_workers: usize,
    /// Batches kept ready over all workers; each worker keeps at least one.
    pub prefetch: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Probability of mirroring a picture left to right, in [0, 1].
    pub flip: f64,
    /// First optimizer step: where a resumed run goes on.
    pub start_step: u64,
}

/// One micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Optimizer step it belongs to.
    pub step: u64,
    /// Its place inside the step, from 0.
    pub micro: u64,
    /// Bytes in the order example, channel, row, column.
    pub images: Vec<u8>,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Mean and deviation of each example's latent; nothing where the data set has none.
    pub moments: Vec<f32>,
    /// Class of each example.
    pub labels: Vec<i64>,
    /// Text of each example, one of its captions.
    pub captions: Vec<Option<String>>,
    /// Index of each example in the data set.
    pub indices: Vec<usize>,
    /// Seconds that [`Loader::next`] waited for it.
    pub wait_s: f64,
}

/// Endless micro-batches of a data set.
///
/// Contents are a function of seed, step and micro-batch alone (see [`Order`]; flips come from the stream
/// `flip`, the choice among captions from `caption`), so a loader started at step `k` equals one that has delivered `k` steps, for any number of workers.
/// Worker `w` of `n` prepares batches `w, w + n, …` into its own bounded channel; errors arrive in the place
/// of their batch.
#[derive(Debug)]
pub struct Loader {
    source: Arc<Source>,
    next_batch: u64,
    workers: Vec<Worker>,
    is_stopping: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker {
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts the workers at `config.start_step`.
    ///
    /// # Errors
    /// When the data set is empty, a size is 0, `flip` is no probability, or a thread cannot start.
    pub fn new(dataset: Arc<dyn Dataset>, config: LoaderConfig) -> Result<Self> {
        ensure!(!dataset.is_empty(), "the data set has no examples");
        ensure!(config.batch_size > 0, "batch_size is `0`; it must be at least 1");
        ensure!(config.micro_batches_per_step > 0, "micro_batches_per_step is `0`; it must be at least 1");
        ensure!((0.0..=1.0).contains(&config.flip), "flip is `{}`; it is a probability in [0, 1]", config.flip);
        let step_size =
            config.batch_size.checked_mul(config.micro_batches_per_step).context("batch_size is too large")?;
        let order = Order::new(config.seed, dataset.len(), step_size);
        let next_batch = config
            .start_step
            .checked_mul(config.micro_batches_per_step as u64)
            .with_context(|| format!("start_step `{}` is too large", config.start_step))?;
        let (num_workers, prefetch) = (config.num_workers, config.prefetch);
        let source = Arc::new(Source { dataset, order, config });
        let mut loader =
            Self { source, next_batch, workers: Vec::with_capacity(num_workers), is_stopping: Arc::default() };
        for worker in 0..num_workers {
            loader.start_worker(worker as u64, num_workers as u64, prefetch.div_ceil(num_workers).max(1))?;
        }
        Ok(loader)
    }

    fn start_worker(&mut self, worker: u64, stride: u64, capacity: usize) -> Result<()> {
        let (sender, receiver) = sync_channel(capacity);
        let (source, is_stopping) = (self.source.clone(), self.is_stopping.clone());
        // Worker `b % stride` owns batch `b`, so `next` knows where to wait after any start.
        let first = self.next_batch + (worker + stride - self.next_batch % stride) % stride;
        let thread = std::thread::Builder::new()
            .name(format!("loader-{worker}"))
            .spawn(move || work(&source, first, stride, &sender, &is_stopping))
            .context("cannot start a loader thread")?;
        self.workers.push(Worker { batches: Some(receiver), thread: Some(thread) });
        Ok(())
    }

    /// Optimizer steps per epoch; 0 when the data set is smaller than one step.
    pub fn steps_per_epoch(&self) -> u64 {
        self.source.order.steps_per_epoch()
    }

    /// The next micro-batch; waits until it is ready.
    ///
    /// # Errors
    /// When an example of the batch cannot be read, in the batch's place; the next call goes on behind it.
    #[allow(clippy::should_implement_trait)] // it never ends, and errors are the caller's to judge
    pub fn next(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let number = self.next_batch;
        self.next_batch += 1;
        let mut batch = match self.workers.len() as u64 {
            0 => self.source.batch(number, &self.is_stopping)?,
            count => self.receive((number % count) as usize)?,
        };
        batch.wait_s = start.elapsed().as_secs_f64();
        Ok(batch)
    }

    fn receive(&self, worker: usize) -> Result<Batch> {
        let received = self.workers[worker].batches.as_ref().and_then(|batches| batches.recv().ok());
        received
            .unwrap_or_else(|| bail!("loader thread {worker} stopped; the data set panicked, see the message above"))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        for worker in &mut self.workers {
            worker.batches = None; // wakes a worker that waits for room
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join(); // a panic was reported by `next`
            }
        }
    }
}

fn work(source: &Source, first: u64, stride: u64, sender: &SyncSender<Result<Batch>>, is_stopping: &AtomicBool) {
    let mut number = first;
    while !is_stopping.load(Ordering::Relaxed) {
        if sender.send(source.batch(number, is_stopping)).is_err() {
            return;
        }
        number += stride;
    }
}

/// What every worker shares.
#[derive(Debug)]
struct Source {
    dataset: Arc<dyn Dataset>,
    order: Order,
    config: LoaderConfig,
}

impl Source {
    /// Micro-batch `number`, counted over the whole run.
    fn batch(&self, number: u64, is_stopping: &AtomicBool) -> Result<Batch> {
        let (size, micros) = (self.config.batch_size, self.config.micro_batches_per_step as u64);
        let (step, micro) = (number / micros, number % micros);
        let indices = self.order.examples(step, micro as usize * size, size);
        let streams = Streams::new(self.config.seed).at(step, micro);
        let (flips, picks) = (streams.uniform("flip", size), streams.uniform("caption", size));
        let mut batch = Batch {
            step,
            micro,
            images: Vec::new(),
            image_size: 0,
            moments: Vec::new(),
            labels: Vec::with_capacity(size),
            captions: Vec::with_capacity(size),
            indices: Vec::with_capacity(size),
            wait_s: 0.0,
        };
        for ((index, flip), pick) in indices.into_iter().zip(flips).zip(picks) {
            ensure!(!is_stopping.load(Ordering::Relaxed), "the loader is stopping");
            self.push(&mut batch, index, f64::from(flip) < self.config.flip, pick)
                .with_context(|| format!("step {step}, micro-batch {micro}: example {index}"))?;
        }
        Ok(batch)
    }

    fn push(&self, batch: &mut Batch, index: usize, is_mirrored: bool, pick: f32) -> Result<()> {
        let mut example = self.dataset.get(index)?;
        let (width, height) = (example.image.width(), example.image.height());
        ensure!(width == height, "the picture is {width} x {height} pixels; pictures of a batch must be square");
        if batch.indices.is_empty() {
            batch.image_size = width;
            batch.images.reserve_exact(self.config.batch_size * width * height * 3);
        }
        let side = batch.image_size;
        ensure!(width == side, "the picture is {width} pixels wide, the batch began with {side}; resize the data");
        append_planes(&mut batch.images, example.image.pixels(), width, is_mirrored);
        if let Some(latents) = self.dataset.latents() {
            batch.moments.extend(latents.moments(index)?);
        }
        batch.labels.push(i64::try_from(example.label)?);
        let caption = (f64::from(pick) * example.captions.len() as f64) as usize; // pick is below 1
        batch.captions.push((caption < example.captions.len()).then(|| example.captions.swap_remove(caption)));
        batch.indices.push(index);
        Ok(())
    }
}

/// Appends one picture, channels first.
fn append_planes(images: &mut Vec<u8>, pixels: &[u8], width: usize, is_mirrored: bool) {
    let (start, count) = (images.len(), pixels.len() / 3);
    images.resize(start + 3 * count, 0);
    let (red, others) = images[start..].split_at_mut(count);
    let (green, blue) = others.split_at_mut(count);
    let planes = red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width)).zip(blue.chunks_exact_mut(width));
    for (row, ((red, green), blue)) in pixels.chunks_exact(width * 3).zip(planes) {
        let places = red.iter_mut().zip(green).zip(blue);
        let put = |(pixel, ((red, green), blue)): (&[u8; 3], ((&mut u8, &mut u8), &mut u8))| {
            [*red, *green, *blue] = *pixel;
        };
        let row = row.as_chunks::<3>().0.iter();
        if is_mirrored { row.rev().zip(places).for_each(put) } else { row.zip(places).for_each(put) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::RgbImage;
    use crate::plugin::dataset::Example;

    /// Pictures whose bytes tell their index; late ones are slow to make, one may be broken.
    #[derive(Debug)]
    struct Numbers {
        count: usize,
        broken: Option<usize>,
        panics: bool,
    }

    impl Dataset for Numbers {
        fn len(&self) -> usize {
            self.count
        }
        fn num_classes(&self) -> usize {
            5
        }
        fn class_name(&self, label: usize) -> String {
            label.to_string()
        }
        fn get(&self, idx: usize) -> Result<Example> {
            assert!(!self.panics, "asked to");
            ensure!(self.broken != Some(idx), "file `{idx}.png` is broken");
            let work: usize = (0..idx * 500).map(|i| std::hint::black_box(i) % 2).sum();
            let pixels = (0..27).map(|at| (idx * 31 + at + work % 2) as u8).collect();
            Ok(Example {
                image: RgbImage::new(3, 3, pixels)?,
                label: idx % 5,
                captions: vec![idx.to_string()],
                mask: None,
            })
        }
    }

    fn config(num_workers: usize, start_step: u64) -> LoaderConfig {
        LoaderConfig {
            batch_size: 7,
            micro_batches_per_step: 2,
            num_workers,
            prefetch: 4,
            seed: 5,
            flip: 0.5,
            start_step,
        }
    }

    fn numbers(count: usize) -> Arc<dyn Dataset> {
        Arc::new(Numbers { count, broken: None, panics: false })
    }

    fn batches(loader: &mut Loader, count: usize) -> Vec<Batch> {
        (0..count).map(|_| Batch { wait_s: 0.0, ..loader.next().unwrap() }).collect()
    }

    #[test]
    fn any_number_of_workers_gives_the_same_batches() {
        let of = |workers| batches(&mut Loader::new(numbers(50), config(workers, 0)).unwrap(), 20);
        let alone = of(0);
        assert_eq!(alone, of(1));
        assert_eq!(alone, of(3));
        assert_eq!(alone.iter().map(|b| (b.step, b.micro)).take(3).collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0)]);
    }

    #[test]
    fn a_resumed_loader_goes_on_where_the_first_stopped() {
        let whole = batches(&mut Loader::new(numbers(50), config(2, 0)).unwrap(), 20);
        for workers in [0, 1, 3] {
            let rest = batches(&mut Loader::new(numbers(50), config(workers, 4)).unwrap(), 12);
            assert_eq!(whole[8..], rest);
        }
    }

    #[test]
    fn an_epoch_shows_every_example_once() {
        let mut loader = Loader::new(numbers(42), config(2, 0)).unwrap();
        assert_eq!(loader.steps_per_epoch(), 3);
        let mut seen: Vec<usize> = batches(&mut loader, 6).into_iter().flat_map(|batch| batch.indices).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..42).collect::<Vec<_>>());
    }

    #[test]
    fn flips_mirror_rows_and_hit_the_asked_share() {
        let mut images = Vec::new();
        append_planes(&mut images, &[1, 2, 3, 4, 5, 6], 2, true);
        assert_eq!(images, [4, 1, 5, 2, 6, 3]);
        let share = |flip| {
            let mut loader = Loader::new(numbers(50), LoaderConfig { flip, ..config(0, 0) }).unwrap();
            let plain = LoaderConfig { flip: 0.0, ..config(0, 0) };
            let plain = batches(&mut Loader::new(numbers(50), plain).unwrap(), 60);
            let flipped = batches(&mut loader, 60);
            let pairs = plain.iter().zip(&flipped).flat_map(|(a, b)| a.images.chunks(27).zip(b.images.chunks(27)));
            pairs.filter(|(a, b)| a != b).count()
        };
        assert_eq!((share(0.0), share(1.0)), (0, 420));
        assert!((160..260).contains(&share(0.5)), "{}", share(0.5));
    }

    #[test]
    fn a_broken_example_is_reported_in_its_place_and_the_rest_goes_on() {
        let good = batches(&mut Loader::new(numbers(50), config(0, 0)).unwrap(), 6);
        let broken = good[2].indices[4];
        let dataset = Arc::new(Numbers { count: 50, broken: Some(broken), panics: false });
        let mut loader = Loader::new(dataset, config(3, 0)).unwrap();
        assert_eq!(batches(&mut loader, 2), good[..2]);
        let message = format!("{:#}", loader.next().unwrap_err());
        assert!(message.contains("step 1, micro-batch 0") && message.contains(&format!("{broken}.png")), "{message}");
        assert_eq!(batches(&mut loader, 1), good[3..4]);
    }

    #[test]
    fn a_panic_in_the_data_set_becomes_an_error() {
        let dataset = Arc::new(Numbers { count: 50, broken: None, panics: true });
        let mut loader = Loader::new(dataset, config(2, 0)).unwrap();
        assert!(loader.next().unwrap_err().to_string().contains("panicked"));
    }

    #[test]
    fn dropping_a_full_or_unused_loader_ends_its_threads() {
        for taken in [0, 1, 9] {
            let dataset = numbers(50);
            let mut loader = Loader::new(dataset.clone(), config(3, 0)).unwrap();
            batches(&mut loader, taken);
            drop(loader);
            assert_eq!(Arc::strong_count(&dataset), 1);
        }
    }

    #[test]
    fn senseless_settings_are_refused() {
        let refused = |config| Loader::new(numbers(50), config).unwrap_err().to_string();
        assert!(refused(LoaderConfig { batch_size: 0, ..config(1, 0) }).contains("batch_size"));
        assert!(refused(LoaderConfig { flip: 1.5, ..config(1, 0) }).contains("flip"));
        assert!(Loader::new(numbers(0), config(1, 0)).unwrap_err().to_string().contains("no examples"));
    }
}
