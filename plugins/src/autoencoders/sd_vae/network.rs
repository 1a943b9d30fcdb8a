//! The network of latent diffusion's autoencoder, with the parameter names of its first code (CompVis).

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::burn::tensor::module::interpolate;
use realign::burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use realign::data::latents::{LatentNorm, Posterior};
use realign::nn::{Conv2d, GroupNorm, ParamBuilder};
use realign::ops::{self, ConvShape};
use realign::plugin::{Autoencoder, Variational};
use realign::streams::Streams;

use super::config::Sizes;

const EPS: f64 = 1e-6; // of every GroupNorm
/// Halves a picture: zeros on the right and below only, as the reference pads.
const HALVE: ConvShape = ConvShape { stride: 2, before: 0, after: 1 };

/// The autoencoder. Pictures enter in 0..255 and leave in [-1, 1]. Computes in the precision of its parameters, norms in f32.
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    #[module(skip)]
    norm: LatentNorm,
}

#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down: Vec<DownLevel>,
    mid: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid: Middle,
    up: Vec<UpLevel>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct DownLevel {
    block: Vec<ResBlock>,
    attn: Vec<Attention>,
    downsample: Option<Resample>,
}

#[derive(Module, Debug)]
struct UpLevel {
    block: Vec<ResBlock>,
    attn: Vec<Attention>,
    upsample: Option<Resample>,
}

#[derive(Module, Debug)]
struct Resample {
    conv: Conv2d,
}

#[derive(Module, Debug)]
struct Middle {
    block_1: ResBlock,
    attn_1: Attention,
    block_2: ResBlock,
}

#[derive(Module, Debug)]
struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct Attention {
    norm: GroupNorm,
    q: Conv2d,
    k: Conv2d,
    v: Conv2d,
    proj_out: Conv2d,
}

impl AutoencoderKl {
    pub(super) fn new(sizes: &Sizes, norm: LatentNorm, params: &ParamBuilder) -> Self {
        let latent = sizes.latent_channels;
        Self {
            encoder: Encoder::new(&params.child("encoder"), sizes),
            decoder: Decoder::new(&params.child("decoder"), sizes),
            quant_conv: conv(&params.child("quant_conv"), 2 * latent, 2 * latent, 1),
            post_quant_conv: conv(&params.child("post_quant_conv"), latent, latent, 1),
            norm,
        }
    }
}

impl Variational for AutoencoderKl {
    fn moments(&self, images: Tensor<4>) -> Tensor<4> {
        self.quant_conv.forward(self.encoder.forward(images / 127.5 - 1.0))
    }

    fn decode_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decoder.forward(self.post_quant_conv.forward(latents))
    }

    fn norm(&self) -> &LatentNorm {
        &self.norm
    }

    fn renormalized(&self, norm: LatentNorm) -> Box<dyn Autoencoder> {
        Box::new(Self { norm, ..self.clone() })
    }
}

impl Autoencoder for AutoencoderKl {
    fn encode(&self, images: Tensor<4>, streams: &Streams) -> Tensor<4> {
        let posterior = Posterior::new(self.moments(images));
        let shape = posterior.mean.dims();
        let noise = streams.normal("posterior", shape.iter().product());
        let noise = ops::upload(&noise, shape, &posterior.mean.device());
        self.norm.normalize(posterior.sample(noise))
    }

    fn decode(&self, samples: Tensor<4>) -> Tensor<4> {
        self.decode_latents(self.norm.denormalize(samples))
    }

    fn variational(&self) -> Option<&dyn Variational> {
        Some(self)
    }
}

impl Encoder {
    fn new(params: &ParamBuilder, sizes: &Sizes) -> Self {
        let (channels, groups) = (&sizes.channels, sizes.num_groups);
        let mut inputs = sizes.first();
        let conv_in = conv(&params.child("conv_in"), 3, inputs, 3);
        let mut down = vec![];
        for (level, width) in channels.iter().enumerate() {
            let params = params.child("down").child(level);
            let (block, attn) = blocks(&params, inputs, *width, sizes.num_res_blocks, sizes, level);
            let downsample = (level + 1 < channels.len())
                .then(|| Resample { conv: Conv2d::new(&params.child("downsample.conv"), *width, *width, 3, HALVE) });
            down.push(DownLevel { block, attn, downsample });
            inputs = *width;
        }
        Self {
            conv_in,
            down,
            mid: Middle::new(&params.child("mid"), inputs, groups),
            norm_out: GroupNorm::new(&params.child("norm_out"), inputs, groups, EPS),
            conv_out: conv(&params.child("conv_out"), inputs, 2 * sizes.latent_channels, 3),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(x);
        for level in &self.down {
            x = refine(x, &level.block, &level.attn);
            if let Some(downsample) = &level.downsample {
                x = downsample.conv.forward(x);
            }
        }
        self.conv_out.forward(self.norm_out.forward_silu(self.mid.forward(x)))
    }
}

impl Decoder {
    /// Level 0 is the finest and is run last.
    fn new(params: &ParamBuilder, sizes: &Sizes) -> Self {
        let (channels, groups) = (&sizes.channels, sizes.num_groups);
        let deepest = sizes.last();
        let mut inputs = deepest;
        let mut up = vec![];
        for (level, width) in channels.iter().enumerate().rev() {
            let params = params.child("up").child(level);
            let (block, attn) = blocks(&params, inputs, *width, sizes.num_res_blocks + 1, sizes, level);
            let upsample =
                (level > 0).then(|| Resample { conv: conv(&params.child("upsample.conv"), *width, *width, 3) });
            up.push(UpLevel { block, attn, upsample });
            inputs = *width;
        }
        up.reverse();
        Self {
            conv_in: conv(&params.child("conv_in"), sizes.latent_channels, deepest, 3),
            mid: Middle::new(&params.child("mid"), deepest, groups),
            up,
            norm_out: GroupNorm::new(&params.child("norm_out"), inputs, groups, EPS),
            conv_out: conv(&params.child("conv_out"), inputs, 3, 3),
        }
    }

    fn forward(&self, z: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid.forward(self.conv_in.forward(z));
        for level in self.up.iter().rev() {
            x = refine(x, &level.block, &level.attn);
            if let Some(upsample) = &level.upsample {
                let double = InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]);
                x = upsample.conv.forward(interpolate(x, double));
            }
        }
        self.conv_out.forward(self.norm_out.forward_silu(x))
    }
}

/// The residual blocks of a level, and the attention behind each where the level has it.
fn blocks(
    params: &ParamBuilder,
    inputs: usize,
    width: usize,
    count: usize,
    sizes: &Sizes,
    level: usize,
) -> (Vec<ResBlock>, Vec<Attention>) {
    let groups = sizes.num_groups;
    let block = |n: usize| {
        let inputs = if n == 0 { inputs } else { width };
        ResBlock::new(&params.child("block").child(n), inputs, width, groups)
    };
    let num_attentions = if sizes.attention_levels.contains(&level) { count } else { 0 };
    let attention = |n: usize| Attention::new(&params.child("attn").child(n), width, groups);
    ((0..count).map(block).collect(), (0..num_attentions).map(attention).collect())
}

fn refine(mut x: Tensor<4>, blocks: &[ResBlock], attentions: &[Attention]) -> Tensor<4> {
    for (n, block) in blocks.iter().enumerate() {
        x = block.forward(x);
        if let Some(attention) = attentions.get(n) {
            x = attention.forward(x);
        }
    }
    x
}

fn conv(params: &ParamBuilder, inputs: usize, outputs: usize, kernel: usize) -> Conv2d {
    Conv2d::new(params, inputs, outputs, kernel, ConvShape::same(kernel))
}

impl Middle {
    fn new(params: &ParamBuilder, width: usize, groups: usize) -> Self {
        Self {
            block_1: ResBlock::new(&params.child("block_1"), width, width, groups),
            attn_1: Attention::new(&params.child("attn_1"), width, groups),
            block_2: ResBlock::new(&params.child("block_2"), width, width, groups),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.block_2.forward(self.attn_1.forward(self.block_1.forward(x)))
    }
}

impl ResBlock {
    fn new(params: &ParamBuilder, inputs: usize, outputs: usize, groups: usize) -> Self {
        Self {
            norm1: GroupNorm::new(&params.child("norm1"), inputs, groups, EPS),
            conv1: conv(&params.child("conv1"), inputs, outputs, 3),
            norm2: GroupNorm::new(&params.child("norm2"), outputs, groups, EPS),
            conv2: conv(&params.child("conv2"), outputs, outputs, 3),
            nin_shortcut: (inputs != outputs).then(|| conv(&params.child("nin_shortcut"), inputs, outputs, 1)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.conv1.forward(self.norm1.forward_silu(x.clone()));
        let h = self.conv2.forward(self.norm2.forward_silu(h));
        match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

impl Attention {
    fn new(params: &ParamBuilder, width: usize, groups: usize) -> Self {
        let map = |name: &str| conv(&params.child(name), width, width, 1);
        let norm = GroupNorm::new(&params.child("norm"), width, groups, EPS);
        Self { norm, q: map("q"), k: map("k"), v: map("v"), proj_out: map("proj_out") }
    }

    /// One head over all positions.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, rows, columns] = x.dims();
        let map = |conv: &Conv2d, h: Tensor<4>| {
            ops::linear(h, conv.weight.val().reshape([channels, channels]), conv.bias.as_ref().map(Param::val))
        };
        let h = self.norm.forward(x.clone()).permute([0, 2, 3, 1]);
        let h = h.reshape([batch, 1, rows * columns, channels]); // [batch, heads, positions, channels]
        let h = ops::attention(map(&self.q, h.clone()), map(&self.k, h.clone()), map(&self.v, h));
        let h = map(&self.proj_out, h).reshape([batch, rows, columns, channels]);
        x + h.permute([0, 3, 1, 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, TensorData};
    use realign::nn::Init;
    use realign::weights::to_host;

    #[test]
    fn halving_begins_at_the_first_pixel_and_pads_the_far_sides_only() {
        let device = Device::flex();
        let params = ParamBuilder::new(&device, 0);
        let mut values = vec![0.0f32; 9];
        values[0] = 1.0; // looks at the pixel in its first row and column
        let weight = params.param("weight", [1, 1, 3, 3], Init::Zeros);
        let kernel = Tensor::from_data(TensorData::new(values, [1, 1, 3, 3]), &device);
        let conv = Conv2d { weight: weight.map(|_| kernel), bias: None, shape: HALVE };
        let picture: Vec<f32> = (0..24).map(|at| at as f32).collect();
        let picture = Tensor::from_data(TensorData::new(picture, [1, 1, 4, 6]), &device);
        assert_eq!(to_host(conv.forward(picture)), [0.0, 2.0, 4.0, 12.0, 14.0, 16.0]);
    }
}
