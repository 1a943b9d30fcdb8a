//! A small classifier of a data set's pictures, to judge whether samples show what they were asked to.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};

use crate::data::loader::{Batch, Loader, LoaderConfig};
use crate::nn::{GridConv2d, Linear, ParamBuilder};
use crate::ops::{self, AdamWState, AdamWStep};
use crate::plugin::{Dataset, Example, PatchGrid};
use crate::train::{flat_gradients, flat_parameters, with_flat};
use crate::weights::to_host;

const STEPS: u64 = 800; // names every color and nearly every shape of held-out pictures of `shapes`
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 2e-3;
const HELD_OUT: usize = 256; // at most, and at most a tenth of the data
const WIDTH: usize = 32;
const STAGES: usize = 3;

/// A convolutional network of three stages, trained on the data set's labels.
#[derive(Debug)]
pub struct Classifier {
    model: Network,
    dataset: Arc<dyn Dataset>,
    /// Examples it was trained on; those after them judge the judge.
    num_trained: usize,
    device: Device,
    image_size: usize,
}

/// Shares of pictures that are judged right, in `[0, 1]`, by attribute of the class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierReport {
    /// Attribute and share: `("color", 0.99)`.
    pub accuracy: Vec<(&'static str, f64)>,
    /// Pictures judged.
    pub count: usize,
}

impl Classifier {
    /// Trains for a few hundred steps; the same seed gives the same classifier.
    ///
    /// # Errors
    /// The data cannot be read, or is a single picture.
    pub fn train(dataset: Arc<dyn Dataset>, image_size: usize, device: &Device, seed: u64) -> Result<Self> {
        let training = device.clone().autodiff();
        let len = dataset.len();
        ensure!(len > 1, "a classifier needs pictures to train on and others to be judged on; the data set has {len}");
        let num_trained = len - (len / 10).clamp(1, HELD_OUT);
        let mut model = Network::new(&ParamBuilder::new(&training, seed), dataset.num_classes());
        let config = LoaderConfig {
            batch_size: BATCH,
            micro_batches_per_step: 1,
            num_workers: 1,
            prefetch: 4,
            seed: seed ^ 0xc1a5, // another order than the run's own
            flip: 0.0,
            start_step: 0,
        };
        let mut loader = Loader::new(Arc::new(First { dataset: dataset.clone(), len: num_trained }), config)?;
        let (_, params) = flat_parameters(&model, true);
        let zeros = || params.iter().map(Tensor::zeros_like).collect();
        let mut state = AdamWState { first: zeros(), second: zeros() };
        for step in 1..=STEPS {
            let batch = loader.next()?;
            let labels =
                Tensor::<1, Int>::from_data(TensorData::new(batch.labels.clone(), [batch.labels.len()]), &training);
            let loss = cross_entropy(model.forward(pictures(&batch, &training)), labels);
            let gradients = flat_gradients(&model, &mut loss.backward());
            let (_, mut params) = flat_parameters(&model, true);
            let lr = LEARNING_RATE * (1.0 - (step - 1) as f64 / STEPS as f64);
            let settings = AdamWStep { step, lr, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.01 };
            if !ops::adamw(&mut params, gradients, &mut state, settings, None) {
                model = with_flat(model, &params, true);
            }
        }
        Ok(Self { model: model.valid(), dataset, num_trained, device: device.clone(), image_size })
    }

    /// Judges pictures (sample, row, column, channel) that were asked to show `labels`.
    ///
    /// # Errors
    /// There is no picture, or their size is not the data set's.
    pub fn judge(&self, pictures: &[u8], labels: &[i64]) -> Result<ClassifierReport> {
        let (side, count) = (self.image_size, labels.len());
        ensure!(
            count > 0 && pictures.len() == count * side * side * 3,
            "the classifier judges pictures of side {side}; {count} of them are not {} bytes",
            pictures.len()
        );
        let mut guesses = vec![];
        for chunk in pictures.chunks(BATCH * side * side * 3) {
            let count = chunk.len() / (side * side * 3);
            let values: Vec<f32> = chunk.iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
            let x = Tensor::<4>::from_data(TensorData::new(values, [count, side, side, 3]), &self.device);
            let scores = to_host(self.model.forward(x.permute([0, 3, 1, 2])));
            guesses.extend(scores.chunks_exact(scores.len() / count).map(best));
        }
        let is_right = |values: &[usize]| {
            let right = guesses.iter().zip(labels).filter(|(guess, label)| {
                let asked = usize::try_from(**label).ok().and_then(|label| values.get(label));
                asked.is_some() && values.get(**guess) == asked
            });
            right.count() as f64 / count as f64
        };
        let attributes = self.dataset.attributes();
        let accuracy = attributes.iter().map(|attribute| (attribute.name, is_right(&attribute.values))).collect();
        Ok(ClassifierReport { accuracy, count })
    }

    /// Judges pictures of the data set that it was not trained on: how far the judge can be trusted.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn judge_data(&self) -> Result<ClassifierReport> {
        let (mut pixels, mut labels) = (vec![], vec![]);
        for idx in self.num_trained..self.dataset.len() {
            let example = self.dataset.get(idx).with_context(|| format!("example {idx}"))?;
            pixels.extend_from_slice(example.image.pixels());
            labels.push(example.label as i64);
        }
        self.judge(&pixels, &labels)
    }
}

/// The first examples of a data set.
#[derive(Debug)]
struct First {
    dataset: Arc<dyn Dataset>,
    len: usize,
}

impl Dataset for First {
    fn len(&self) -> usize {
        self.len
    }
    fn num_classes(&self) -> usize {
        self.dataset.num_classes()
    }
    fn class_name(&self, label: usize) -> String {
        self.dataset.class_name(label)
    }
    fn get(&self, idx: usize) -> Result<Example> {
        self.dataset.get(idx)
    }
}

fn best(scores: &[f32]) -> usize {
    scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class)
}

/// A batch's pictures in [-1, 1].
fn pictures(batch: &Batch, device: &Device) -> Tensor<4> {
    let side = batch.image_size;
    let values: Vec<f32> = batch.images.iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [batch.labels.len(), 3, side, side]), device)
}

fn cross_entropy(scores: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(scores, 1).gather(1, labels.unsqueeze_dim(1)).mean().neg()
}

/// Convolution, GELU and 2x2 merging, three times; then the mean and the maximum over the grid.
#[derive(Module, Debug)]
struct Network {
    convs: Vec<GridConv2d>,
    head: Linear,
}

impl Network {
    fn new(params: &ParamBuilder, num_classes: usize) -> Self {
        let width = |stage: usize| WIDTH << stage;
        let conv = |stage: usize| {
            let inputs = if stage == 0 { 4 * 3 } else { 4 * width(stage - 1) };
            GridConv2d::new(&params.child("convs").child(stage), inputs, width(stage), 3)
        };
        let head = Linear::new(&params.child("head"), 2 * width(STAGES - 1), num_classes);
        Self { convs: (0..STAGES).map(conv).collect(), head }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = x.dims();
        let mut grid = PatchGrid::new(height, width);
        let mut tokens = x.permute([0, 2, 3, 1]).reshape([batch, height * width, channels]);
        for conv in &self.convs {
            tokens = merge(tokens, grid);
            grid = PatchGrid::new(grid.rows / 2, grid.columns / 2);
            tokens = ops::gelu_tanh(conv.forward(tokens, grid));
        }
        let pooled = [tokens.clone().mean_dim(1), tokens.max_dim(1)].map(|pool| pool.squeeze_dim::<2>(1));
        self.head.forward(Tensor::cat(pooled.to_vec(), 1))
    }
}

/// Joins 2x2 neighbors; an odd last row or column is left out.
fn merge(tokens: Tensor<3>, grid: PatchGrid) -> Tensor<3> {
    let [batch, _, channels] = tokens.dims();
    let (rows, columns) = (grid.rows / 2, grid.columns / 2);
    tokens
        .reshape([batch, grid.rows, grid.columns, channels])
        .slice([0..batch, 0..2 * rows, 0..2 * columns, 0..channels])
        .reshape([batch, rows, 2, columns, 2, channels])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([batch, rows * columns, 4 * channels])
}
