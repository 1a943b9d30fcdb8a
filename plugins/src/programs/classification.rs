//! Training an encoder on labels: a target of one's own, and the accuracy of a published one after fine-tuning.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor, activation::log_softmax};
use realign::data::in_order::{image_tensor, in_order};
use realign::data::loader::Batch;
use realign::erase::Slot;
use realign::nn::{Init, Linear, ParamBuilder};
use realign::ops;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{
    Dataset, DatasetConfig, DatasetContext, EncoderConfig, EncoderContext, EncoderKind, PatchGrid, Program,
    ProgramConfig, ProgramContext,
};
use realign::recipe::Check;
use realign::streams::Streams;
use realign::train::{Ema, Gradients, Optimizer, OptimizerSettings, Preview, ReadTensors, WriteTensors, images};
use realign::weights::{StateDict, load_state_dict, state_dict, to_host};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `classification`: an encoder and a linear head on its mean patch token, trained on the labels of the data set.
///
/// From scratch it makes an encoder that `checkpoint` then aligns with; from published weights it measures the
/// accuracy after full fine-tuning (paper, figure 31: rate 5e-5, a tenth of the run as warm-up, 30 epochs).
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassificationConfig {
    /// The network: an encoder with weights, published or random.
    #[schemars(with = "serde_json::Value")]
    pub encoder: Option<Box<dyn EncoderConfig>>,
    /// Rows and columns of tokens, for encoders that follow a backbone's grid on small pictures.
    pub grid: Option<usize>,
    /// Share of the target that is spread over all classes.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub label_smoothing: f64,
    /// Pictures that the accuracy is measured on; none when left out.
    #[schemars(with = "serde_json::Value")]
    pub validation: Option<Box<dyn DatasetConfig>>,
    /// How many of them; all when left out.
    pub num_validation: Option<usize>,
}

impl ClassificationConfig {
    fn encoder_context(&self, image_size: usize, weights_dir: &Path) -> EncoderContext {
        EncoderContext { image_size, backbone_grid: self.tokens(), weights_dir: weights_dir.into() }
    }

    fn tokens(&self) -> PatchGrid {
        let side = self.grid.unwrap_or(16);
        PatchGrid::new(side, side)
    }
}

#[typetag::serde(name = "classification")]
impl ProgramConfig for ClassificationConfig {
    fn weights(&self, image_size: usize, weights_dir: &Path) -> Vec<WeightFile> {
        let context = self.encoder_context(image_size, weights_dir);
        // Sizes that do not fit are reported when it is built.
        self.encoder.as_ref().and_then(|encoder| encoder.spec(&context).ok()).map_or(vec![], |spec| spec.weights)
    }

    fn encoder(&self) -> Option<(&dyn EncoderConfig, PatchGrid)> {
        self.encoder.as_deref().map(|encoder| (encoder, self.tokens()))
    }

    fn build(&self, ctx: &ProgramContext<'_>, device: &Device) -> Result<Box<dyn Program>> {
        let config = self.encoder.as_ref().context("it names no encoder")?;
        let context = self.encoder_context(ctx.image_size, &ctx.weights_dir);
        let training = device.clone().autodiff();
        let channels = config.spec(&context).context("encoder")?.channels;
        let params = ParamBuilder::new(&training, ctx.seed).child("head");
        let num_classes = ctx.dataset.num_classes();
        let network = Network {
            encoder: Slot::new(config.build(&context, &training).context("encoder")?),
            head: Linear::with_init(&params, channels, num_classes, Init::Normal(0.01)),
        };
        let optimizer = Optimizer::new(&network, OptimizerSettings::new(ctx.train));
        let emas = ctx.train.ema.iter().map(|ema| Ema::new(&network, ema.clone())).collect::<Result<_>>()?;
        Ok(Box::new(Classification {
            network,
            optimizer,
            emas,
            steps_done: 0,
            smoothing: self.label_smoothing,
            validation: self.validation(ctx, num_classes)?,
            device: device.clone(),
        }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("label_smoothing", self.label_smoothing, 0.0, 0.9);
        match &self.encoder {
            Some(encoder) => check.within("encoder", |check| encoder.validate(check)),
            None => check.bad("encoder", "is missing; name an encoder with weights, such as `{type: vit, ...}`"),
        }
        if let Some(grid) = self.grid {
            check.range("grid", grid, 1, 1024);
        }
        if let Some(validation) = &self.validation {
            check.within("validation", |check| validation.validate(check));
        }
        if let Some(count) = self.num_validation {
            check.positive("num_validation", count);
        }
    }
}

realign::register!(ProgramConfig as "program": ClassificationConfig);

impl ClassificationConfig {
    fn validation(&self, ctx: &ProgramContext<'_>, num_classes: usize) -> Result<Option<Validation>> {
        let Some(config) = &self.validation else { return Ok(None) };
        // Data that is drawn shall not be drawn again.
        let context = DatasetContext { image_size: ctx.image_size, seed: !ctx.seed };
        let dataset: Arc<dyn Dataset> = config.open(&context).context("validation")?.into();
        ensure!(
            dataset.num_classes() == num_classes,
            "validation has {} classes and the data {num_classes}; they must be the same classes",
            dataset.num_classes()
        );
        let count = self.num_validation.unwrap_or(dataset.len()).min(dataset.len());
        Ok(Some(Validation { dataset, count, batch_size: ctx.train.global_batch_size }))
    }
}

/// The encoder, and the layer that its mean patch token goes through.
#[derive(Module, Debug)]
struct Network {
    encoder: Slot<EncoderKind>,
    head: Linear,
}

impl Network {
    /// `[batch, classes]` for `images`: `[batch, 3, height, width]` in 0..255.
    fn logits(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let tokens = self.encoder.encode(images)?.tokens;
        Ok(self.head.forward(tokens.mean_dim(1).squeeze_dim::<2>(1)))
    }
}

#[derive(Debug)]
struct Classification {
    network: Network,
    optimizer: Optimizer,
    emas: Vec<Ema<Network>>,
    steps_done: u64,
    smoothing: f64,
    validation: Option<Validation>,
    device: Device,
}

/// Pictures that are not trained on.
#[derive(Debug)]
struct Validation {
    dataset: Arc<dyn Dataset>,
    count: usize,
    batch_size: usize,
}

impl Program for Classification {
    fn step(&mut self, batch: &Batch, _: &Streams, learning_rate: f64) -> Result<Vec<(String, Tensor<1>)>> {
        let logits = self.network.logits(Tensor::from_inner(images(batch, &self.device)?))?;
        let right = num_right(logits.clone().inner(), &batch.labels) / batch.labels.len() as f64;
        let loss = cross_entropy(logits, &batch.labels, self.smoothing);
        let shown = loss.clone().inner();
        let gradients = Gradients::of_loss(&self.network, loss);
        let norm = self.optimizer.step(&mut self.network, gradients, learning_rate);
        for ema in &mut self.emas {
            ema.update(&self.network, self.steps_done);
        }
        self.steps_done += 1;
        let scalars = [("train/loss", shown), ("train/top1", right), ("train/grad_norm", norm)];
        Ok(scalars.map(|(tag, value)| (tag.to_string(), value)).to_vec())
    }

    fn save(&self, write: &mut WriteTensors<'_>) -> Result<()> {
        write("optimizer", &self.optimizer.state_dict().0)?;
        write("encoder", &state_dict(&self.network.encoder))?;
        write("head", &state_dict(&self.network.head))?;
        for ema in &self.emas {
            write(&format!("encoder-{}", ema.settings.name), &state_dict(&ema.model().encoder))?;
            write(&format!("head-{}", ema.settings.name), &state_dict(&ema.model().head))?;
        }
        Ok(())
    }

    fn load(&mut self, steps: u64, read: &ReadTensors<'_>) -> Result<()> {
        self.network.encoder = load_state_dict(self.network.encoder.clone(), read("encoder")?)?;
        self.network.head = load_state_dict(self.network.head.clone(), read("head")?)?;
        for ema in &mut self.emas {
            let name = ema.settings.name.clone();
            let mut whole = StateDict::new();
            for part in ["encoder", "head"] {
                let tensors = read(&format!("{part}-{name}"))?;
                whole.extend(tensors.into_iter().map(|(key, tensor)| (format!("{part}.{key}"), tensor)));
            }
            *ema = Ema::from_state_dict(&self.network, ema.settings.clone(), whole)?;
        }
        self.optimizer.load_state_dict(read("optimizer")?, steps)?;
        self.steps_done = steps;
        Ok(())
    }

    fn measures(&self) -> Result<Vec<(String, f64)>> {
        let Some(validation) = &self.validation else { return Ok(vec![]) };
        let mut measured = vec![("eval/top1".to_string(), validation.top1(&self.network.valid(), &self.device)?)];
        for ema in &self.emas {
            let top1 = validation.top1(ema.model(), &self.device)?;
            measured.push((format!("eval/top1_{}", ema.settings.name), top1));
        }
        Ok(measured)
    }

    fn previews(&mut self) -> Result<Vec<Preview>> {
        Ok(vec![])
    }

    fn weights(&self) -> StateDict {
        state_dict(&self.network)
    }
}

impl Validation {
    /// Share of the pictures whose class has the largest logit.
    fn top1(&self, network: &Network, device: &Device) -> Result<f64> {
        let mut right = 0.0;
        let indices: Vec<usize> = (0..self.count).collect();
        in_order(&*self.dataset, &indices, self.batch_size, |_, examples| {
            let labels =
                examples.iter().map(|example| Ok(i64::try_from(example.label)?)).collect::<Result<Vec<_>>>()?;
            let found = num_right(network.logits(image_tensor(&examples, device)?)?, &labels);
            right += f64::from(to_host(found).first().copied().unwrap_or(f32::NAN));
            Ok(())
        })?;
        Ok(right / self.count as f64)
    }
}

/// How many rows have their label's logit as the largest, `[1]`.
fn num_right(logits: Tensor<2>, labels: &[i64]) -> Tensor<1> {
    let [batch, _] = logits.dims();
    let labels = ops::upload_ints(labels, [batch], &logits.device());
    logits.argmax(1).reshape([batch]).equal(labels).float().sum()
}

/// Mean over the batch of `−Σ target · log softmax(logits)`, `[1]`.
///
/// # Shapes
/// * `logits`: `[batch, classes]`
fn cross_entropy(logits: Tensor<2>, labels: &[i64], smoothing: f64) -> Tensor<1> {
    let [batch, classes] = logits.dims();
    let log_probabilities = log_softmax(logits, 1);
    let labels = ops::upload_ints(labels, [batch, 1], &log_probabilities.device());
    let of_label = log_probabilities.clone().gather(1, labels).mean();
    let of_all = log_probabilities.sum() / (batch * classes) as f64;
    -(of_label * (1.0 - smoothing) + of_all * smoothing)
}
