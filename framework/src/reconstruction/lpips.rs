//! LPIPS: distance of two pictures in the features of VGG16.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::{Module, Param};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor, activation::relu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::erase::At;
use crate::nn::{Conv2d, Init, ParamBuilder, Sequential};
use crate::ops::{self, ConvShape};
use crate::plugin::encoder::WeightFile;
use crate::weights::{PublishedWeights, StateDict, load_state_dict, read_weights};

use super::published;

/// Mean and deviation of VGG's pictures in [-1, 1].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
const EPS: f64 = 1e-10; // beside the norm of a feature
/// Places of the convolutions in torchvision's `features`, by slice; a pooling is between slices.
const PLACES: [&[usize]; 5] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];

/// What LPIPS takes pictures in [-1, 1] for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LpipsInput {
    /// Pictures in [-1, 1], as VGG wants them.
    #[default]
    Correct,
    /// Pictures in [0, 1], which it stretches to [-3, 1]: what REPA-E's released code does.
    Reference,
}

/// The distance, frozen. Parameters have the names of the published code: `net.slice<n>.<place>`, `lin<n>.model.1`.
///
/// Source: Zhang et al., 2018; taming-transformers and REPA-E `loss/lpips.py`. Dropout is for training its last
/// weights and left out.
#[derive(Module, Debug)]
pub struct Lpips {
    net: Vgg,
    lin0: Head,
    lin1: Head,
    lin2: Head,
    lin3: Head,
    lin4: Head,
}

#[derive(Module, Debug)]
struct Vgg {
    slice1: Sequential<Conv2d>,
    slice2: Sequential<Conv2d>,
    slice3: Sequential<Conv2d>,
    slice4: Sequential<Conv2d>,
    slice5: Sequential<Conv2d>,
}

#[derive(Module, Debug)]
struct Head {
    model: At<1, Weight>,
}

#[derive(Module, Debug)]
struct Weight {
    weight: Param<Tensor<4>>,
}

/// The two files of published weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LpipsFiles {
    /// torchvision's VGG16, trained on ImageNet.
    pub vgg: PathBuf,
    /// The learned weights of its features.
    pub linear: PathBuf,
}

impl LpipsFiles {
    /// The files under their published names.
    pub fn published(weights_dir: &Path) -> Self {
        Self { vgg: published::vgg16().path(weights_dir), linear: published::lpips().path(weights_dir) }
    }

    /// Both, with the command that gets each.
    pub fn weights(&self) -> [WeightFile; 2] {
        let file =
            |known: PublishedWeights, path: &Path| WeightFile { command: known.command(path), path: path.into() };
        [file(published::vgg16(), &self.vgg), file(published::lpips(), &self.linear)]
    }
}

impl Lpips {
    /// Widths of VGG16's slices.
    pub const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

    /// The distance with weights drawn at random, to be filled; the published network has [`Self::WIDTHS`].
    pub fn new(params: &ParamBuilder, widths: [usize; 5]) -> Self {
        let slice = |n: usize| {
            let params = params.child("net").child(format!("slice{}", n + 1));
            let inputs = if n == 0 { 3 } else { widths[n - 1] };
            let conv = |(at, place): (usize, &usize)| {
                let inputs = if at == 0 { inputs } else { widths[n] };
                (*place, Conv2d::new(&params.child(place), inputs, widths[n], 3, ConvShape::same(3)))
            };
            Sequential(PLACES[n].iter().enumerate().map(conv).collect())
        };
        let head = |n: usize| {
            let params = params.child(format!("lin{n}.model.1"));
            Head { model: At(Weight { weight: params.param("weight", [1, widths[n], 1, 1], Init::Ones) }) }
        };
        let net = Vgg { slice1: slice(0), slice2: slice(1), slice3: slice(2), slice4: slice(3), slice5: slice(4) };
        let [lin0, lin1, lin2, lin3, lin4] = [0, 1, 2, 3, 4].map(head);
        Self { net, lin0, lin1, lin2, lin3, lin4 }.no_grad()
    }

    /// The published distance.
    ///
    /// # Errors
    /// A file is absent, or does not hold these weights.
    pub fn load(files: &LpipsFiles, device: &Device) -> Result<Self> {
        for file in files.weights() {
            if !file.path.exists() {
                bail!("LPIPS needs `{}`; get it with `{}`", file.path.display(), file.command);
            }
        }
        let mut dict = StateDict::new();
        for (name, tensor) in read_weights(&files.vgg)? {
            if let Some(name) = vgg_name(&name) {
                dict.insert(name, tensor);
            }
        }
        dict.extend(read_weights(&files.linear)?.into_iter().filter(|(name, _)| name.starts_with("lin")));
        let network = Self::new(&ParamBuilder::new(device, 0), Self::WIDTHS);
        let place = || format!("`{}` with `{}`", files.vgg.display(), files.linear.display());
        Ok(load_state_dict(network, dict).with_context(place)?.no_grad())
    }

    /// Distance of each pair.
    ///
    /// # Shapes
    /// * `a`, `b`: `[batch, 3, height, width]` in [-1, 1], result: `[batch, 1, 1, 1]`
    pub fn forward(&self, a: Tensor<4>, b: Tensor<4>, input: LpipsInput) -> Tensor<4> {
        let heads = [&self.lin1, &self.lin2, &self.lin3, &self.lin4];
        let [a, b] = [a, b].map(|x| self.net.features(scaled(x, input)));
        let ([a0, a1, a2, a3, a4], [b0, b1, b2, b3, b4]) = (a, b);
        let first = self.lin0.distance(a0, b0);
        let rest = [(a1, b1), (a2, b2), (a3, b3), (a4, b4)].into_iter().zip(heads);
        rest.fold(first, |sum, ((a, b), head)| sum + head.distance(a, b))
    }
}

impl Vgg {
    /// What each slice gives behind its last ReLU.
    fn features(&self, x: Tensor<4>) -> [Tensor<4>; 5] {
        let slice =
            |x: Tensor<4>, slice: &Sequential<Conv2d>| slice.0.iter().fold(x, |x, (_, conv)| relu(conv.forward(x)));
        let pooled = |x: &Tensor<4>| max_pool2d(x.clone(), MaxPoolOptions::new([2, 2]));
        let first = slice(x, &self.slice1);
        let second = slice(pooled(&first), &self.slice2);
        let third = slice(pooled(&second), &self.slice3);
        let fourth = slice(pooled(&third), &self.slice4);
        let fifth = slice(pooled(&fourth), &self.slice5);
        [first, second, third, fourth, fifth]
    }
}

impl Head {
    /// Weighted squared distance of unit features, averaged over pixels.
    ///
    /// # Shapes
    /// * `a`, `b`: `[batch, channels, height, width]`, result: `[batch, 1, 1, 1]`
    fn distance(&self, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        let gap = (unit(a) - unit(b)).square() * self.model.weight.val();
        gap.sum_dim(1).mean_dim(2).mean_dim(3)
    }
}

/// `features.<place>.<parameter>` of torchvision as the distance names it; nothing for the classifier.
fn vgg_name(name: &str) -> Option<String> {
    let (place, parameter) = name.strip_prefix("features.")?.split_once('.')?;
    let place: usize = place.parse().ok()?;
    let slice = PLACES.iter().position(|places| places.contains(&place))?;
    Some(format!("net.slice{}.{place}.{parameter}", slice + 1))
}

fn scaled(x: Tensor<4>, input: LpipsInput) -> Tensor<4> {
    let x = match input {
        LpipsInput::Correct => x,
        LpipsInput::Reference => x * 2.0 - 1.0,
    };
    let device = x.device();
    let per_channel = |values: [f32; 3]| ops::upload(&values, [1, 3, 1, 1], &device);
    (x - per_channel(SHIFT)) / per_channel(SCALE)
}

/// Unit length over channels.
fn unit(x: Tensor<4>) -> Tensor<4> {
    // EPS² under the root changes no value and keeps the gradient finite where all channels are zero.
    let norm = (x.clone().square().sum_dim(1) + EPS * EPS).sqrt();
    x / (norm + EPS)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::streams::Streams;
    use crate::weights::{parameters, to_host};

    fn picture(name: &str, device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(Streams::new(1).normal(name, 2 * 3 * 16 * 17), [2, 3, 16, 17]), device)
    }

    #[test]
    fn equal_pictures_have_no_distance_and_gradients_are_finite() {
        let device = Device::flex().autodiff();
        let lpips = Lpips::new(&ParamBuilder::new(&device, 0), [2, 3, 4, 5, 6]);
        let (a, b) = (picture("a", &device).require_grad(), picture("b", &device));
        let same = lpips.forward(a.clone(), a.clone(), LpipsInput::Correct);
        assert!(to_host(same).iter().all(|distance| *distance == 0.0));
        let distance = lpips.forward(a.clone(), b, LpipsInput::Correct);
        assert_eq!(distance.dims(), [2, 1, 1, 1]);
        let gradient = to_host(a.grad(&distance.sum().backward()).unwrap());
        assert!(gradient.iter().all(|value| value.is_finite()) && gradient.iter().any(|value| *value != 0.0));
        assert!(parameters(&lpips).iter().all(|param| !param.is_trainable));
    }

    #[test]
    fn the_reference_takes_its_pictures_for_another_range() {
        let device = Device::flex();
        let lpips = Lpips::new(&ParamBuilder::new(&device, 0), [2, 3, 4, 5, 6]);
        let distance = |a: Tensor<4>, b: Tensor<4>, input| to_host(lpips.forward(a, b, input));
        let (a, b) = (picture("a", &device), picture("b", &device));
        let reference = distance(a.clone(), b.clone(), LpipsInput::Reference);
        assert_eq!(reference, distance(a * 2.0 - 1.0, b * 2.0 - 1.0, LpipsInput::Correct));
    }

    #[test]
    fn absent_files_are_named_with_their_command() {
        let files = LpipsFiles::published(Path::new("nowhere"));
        let message = format!("{:#}", Lpips::load(&files, &Device::flex()).unwrap_err());
        assert!(message.contains("nowhere/vgg16-397923af.pth") && message.contains("curl"), "{message}");
        assert!(files.weights()[1].command.contains("nowhere/vgg.pth"));
    }

    #[test]
    fn names_of_torchvision_are_found_and_its_classifier_left_out() {
        assert_eq!(vgg_name("features.14.bias").as_deref(), Some("net.slice3.14.bias"));
        assert_eq!(vgg_name("classifier.0.weight"), None);
    }
}
