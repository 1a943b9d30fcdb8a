//! Inception's blocks: branches side by side, joined by channels. Names are torchvision's.

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::module::{avg_pool2d, conv2d, max_pool2d};
use realign::burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use realign::burn::tensor::{Tensor, activation::relu};
use realign::nn::{BatchNorm2d, Init, ParamBuilder};

const EPS: f64 = 1e-3;

/// Convolution without bias, norm with running statistics, positive part: torchvision's `BasicConv2d`.
#[derive(Module, Debug)]
pub struct BasicConv {
    conv: Kernel,
    bn: BatchNorm2d,
    #[module(skip)]
    step: usize,
    #[module(skip)]
    padding: [usize; 2],
}

/// The convolution's only parameter.
#[derive(Module, Debug)]
pub struct Kernel {
    /// `[out, in, rows, columns]`.
    pub weight: Param<Tensor<4>>,
}

impl BasicConv {
    /// A kernel of `size` rows and columns.
    pub fn new(
        params: &ParamBuilder,
        [inputs, outputs]: [usize; 2],
        size: [usize; 2],
        step: usize,
        padding: [usize; 2],
    ) -> Self {
        let shape = [outputs, inputs, size[0], size[1]];
        let spread = (2.0 / (inputs * size[0] * size[1]) as f64).sqrt(); // keeps the size of values when it is drawn
        let weight = params.child("conv").param("weight", shape, Init::Normal(spread));
        let bn = BatchNorm2d::new(&params.child("bn"), outputs, Some(Init::Ones), EPS, 0.0);
        Self { conv: Kernel { weight }, bn, step, padding }
    }

    /// # Shapes
    /// * `x`: `[batch, in, height, width]`
    /// * result: `[batch, out, rows, columns]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [outputs, ..] = self.conv.weight.dims();
        let [scale, shift] = self.bn.scale_and_shift();
        // The norm of running statistics is a factor and an offset for each channel: both go into the convolution.
        let weight = self.conv.weight.val() * scale.reshape([outputs, 1, 1, 1]);
        let options = ConvOptions::new([self.step; 2], self.padding, [1, 1], 1);
        relu(conv2d(x, weight, Some(shift), options))
    }
}

/// How the last branch of a block pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// The mean of the pixels under the window that there are.
    Mean,
    /// The largest.
    Max,
}

impl Pool {
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Mean => {
                let options = AvgPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]);
                avg_pool2d(x, options.with_count_include_pad(false))
            }
            Self::Max => max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1])),
        }
    }
}

/// The largest of 3x3, every second pixel.
pub fn shrink(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2]))
}

/// Declares layers of one block by name.
struct Layers<'a>(&'a ParamBuilder);

impl Layers<'_> {
    /// Keeps the size: padding is half of the kernel.
    fn same(&self, name: &str, channels: [usize; 2], size: [usize; 2]) -> BasicConv {
        BasicConv::new(&self.0.child(name), channels, size, 1, size.map(|side| side / 2))
    }

    /// 3x3, every second pixel.
    fn shrinking(&self, name: &str, channels: [usize; 2]) -> BasicConv {
        BasicConv::new(&self.0.child(name), channels, [3, 3], 2, [0, 0])
    }
}

fn chain(x: &Tensor<4>, layers: &[&BasicConv]) -> Tensor<4> {
    layers.iter().fold(x.clone(), |x, layer| layer.forward(x))
}

/// `Mixed_5b`, `5c`, `5d`: 35 x 35.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub struct BlockA {
    branch1x1: BasicConv,
    branch5x5_1: BasicConv,
    branch5x5_2: BasicConv,
    branch3x3dbl_1: BasicConv,
    branch3x3dbl_2: BasicConv,
    branch3x3dbl_3: BasicConv,
    branch_pool: BasicConv,
}

impl BlockA {
    /// From `inputs` to 224 + `pooled` channels.
    pub fn new(params: &ParamBuilder, inputs: usize, pooled: usize) -> Self {
        let layers = Layers(params);
        Self {
            branch1x1: layers.same("branch1x1", [inputs, 64], [1, 1]),
            branch5x5_1: layers.same("branch5x5_1", [inputs, 48], [1, 1]),
            branch5x5_2: layers.same("branch5x5_2", [48, 64], [5, 5]),
            branch3x3dbl_1: layers.same("branch3x3dbl_1", [inputs, 64], [1, 1]),
            branch3x3dbl_2: layers.same("branch3x3dbl_2", [64, 96], [3, 3]),
            branch3x3dbl_3: layers.same("branch3x3dbl_3", [96, 96], [3, 3]),
            branch_pool: layers.same("branch_pool", [inputs, pooled], [1, 1]),
        }
    }

    /// # Shapes
    /// * `x`: `[batch, in, height, width]`, result: `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branches = vec![
            self.branch1x1.forward(x.clone()),
            chain(&x, &[&self.branch5x5_1, &self.branch5x5_2]),
            chain(&x, &[&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3]),
            self.branch_pool.forward(Pool::Mean.apply(x)),
        ];
        Tensor::cat(branches, 1)
    }
}

/// `Mixed_6a`: from 35 x 35 to 17 x 17.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub struct BlockB {
    branch3x3: BasicConv,
    branch3x3dbl_1: BasicConv,
    branch3x3dbl_2: BasicConv,
    branch3x3dbl_3: BasicConv,
}

impl BlockB {
    /// From 288 to 768 channels.
    pub fn new(params: &ParamBuilder) -> Self {
        let layers = Layers(params);
        Self {
            branch3x3: layers.shrinking("branch3x3", [288, 384]),
            branch3x3dbl_1: layers.same("branch3x3dbl_1", [288, 64], [1, 1]),
            branch3x3dbl_2: layers.same("branch3x3dbl_2", [64, 96], [3, 3]),
            branch3x3dbl_3: layers.shrinking("branch3x3dbl_3", [96, 96]),
        }
    }

    /// # Shapes
    /// * `x`: `[batch, 288, 35, 35]`, result: `[batch, 768, 17, 17]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branches = vec![
            self.branch3x3.forward(x.clone()),
            chain(&x, &[&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3]),
            shrink(x),
        ];
        Tensor::cat(branches, 1)
    }
}

/// `Mixed_6b` to `6e`: 17 x 17, kernels of one row and of one column.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub struct BlockC {
    branch1x1: BasicConv,
    branch7x7_1: BasicConv,
    branch7x7_2: BasicConv,
    branch7x7_3: BasicConv,
    branch7x7dbl_1: BasicConv,
    branch7x7dbl_2: BasicConv,
    branch7x7dbl_3: BasicConv,
    branch7x7dbl_4: BasicConv,
    branch7x7dbl_5: BasicConv,
    branch_pool: BasicConv,
}

impl BlockC {
    /// From 768 to 768 channels, with `inner` in between.
    pub fn new(params: &ParamBuilder, inner: usize) -> Self {
        let layers = Layers(params);
        let (row, column) = ([1, 7], [7, 1]);
        Self {
            branch1x1: layers.same("branch1x1", [768, 192], [1, 1]),
            branch7x7_1: layers.same("branch7x7_1", [768, inner], [1, 1]),
            branch7x7_2: layers.same("branch7x7_2", [inner, inner], row),
            branch7x7_3: layers.same("branch7x7_3", [inner, 192], column),
            branch7x7dbl_1: layers.same("branch7x7dbl_1", [768, inner], [1, 1]),
            branch7x7dbl_2: layers.same("branch7x7dbl_2", [inner, inner], column),
            branch7x7dbl_3: layers.same("branch7x7dbl_3", [inner, inner], row),
            branch7x7dbl_4: layers.same("branch7x7dbl_4", [inner, inner], column),
            branch7x7dbl_5: layers.same("branch7x7dbl_5", [inner, 192], row),
            branch_pool: layers.same("branch_pool", [768, 192], [1, 1]),
        }
    }

    /// The first branch alone, which sFID looks at.
    ///
    /// # Shapes
    /// * `x`: `[batch, 768, height, width]`, result: `[batch, 192, height, width]`
    pub fn first_branch(&self, x: Tensor<4>) -> Tensor<4> {
        self.branch1x1.forward(x)
    }

    /// # Shapes
    /// * `x` and result: `[batch, 768, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let double = [
            &self.branch7x7dbl_1,
            &self.branch7x7dbl_2,
            &self.branch7x7dbl_3,
            &self.branch7x7dbl_4,
            &self.branch7x7dbl_5,
        ];
        let branches = vec![
            self.branch1x1.forward(x.clone()),
            chain(&x, &[&self.branch7x7_1, &self.branch7x7_2, &self.branch7x7_3]),
            chain(&x, &double),
            self.branch_pool.forward(Pool::Mean.apply(x)),
        ];
        Tensor::cat(branches, 1)
    }
}

/// `Mixed_7a`: from 17 x 17 to 8 x 8.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub struct BlockD {
    branch3x3_1: BasicConv,
    branch3x3_2: BasicConv,
    branch7x7x3_1: BasicConv,
    branch7x7x3_2: BasicConv,
    branch7x7x3_3: BasicConv,
    branch7x7x3_4: BasicConv,
}

impl BlockD {
    /// From 768 to 1280 channels.
    pub fn new(params: &ParamBuilder) -> Self {
        let layers = Layers(params);
        Self {
            branch3x3_1: layers.same("branch3x3_1", [768, 192], [1, 1]),
            branch3x3_2: layers.shrinking("branch3x3_2", [192, 320]),
            branch7x7x3_1: layers.same("branch7x7x3_1", [768, 192], [1, 1]),
            branch7x7x3_2: layers.same("branch7x7x3_2", [192, 192], [1, 7]),
            branch7x7x3_3: layers.same("branch7x7x3_3", [192, 192], [7, 1]),
            branch7x7x3_4: layers.shrinking("branch7x7x3_4", [192, 192]),
        }
    }

    /// # Shapes
    /// * `x`: `[batch, 768, 17, 17]`, result: `[batch, 1280, 8, 8]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let long = [&self.branch7x7x3_1, &self.branch7x7x3_2, &self.branch7x7x3_3, &self.branch7x7x3_4];
        let branches = vec![chain(&x, &[&self.branch3x3_1, &self.branch3x3_2]), chain(&x, &long), shrink(x)];
        Tensor::cat(branches, 1)
    }
}

/// `Mixed_7b` and `7c`: 8 x 8.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub struct BlockE {
    branch1x1: BasicConv,
    branch3x3_1: BasicConv,
    branch3x3_2a: BasicConv,
    branch3x3_2b: BasicConv,
    branch3x3dbl_1: BasicConv,
    branch3x3dbl_2: BasicConv,
    branch3x3dbl_3a: BasicConv,
    branch3x3dbl_3b: BasicConv,
    branch_pool: BasicConv,
    #[module(skip)]
    pool: Pool,
}

impl BlockE {
    /// From `inputs` to 2048 channels.
    pub fn new(params: &ParamBuilder, inputs: usize, pool: Pool) -> Self {
        let layers = Layers(params);
        let (row, column) = ([1, 3], [3, 1]);
        Self {
            branch1x1: layers.same("branch1x1", [inputs, 320], [1, 1]),
            branch3x3_1: layers.same("branch3x3_1", [inputs, 384], [1, 1]),
            branch3x3_2a: layers.same("branch3x3_2a", [384, 384], row),
            branch3x3_2b: layers.same("branch3x3_2b", [384, 384], column),
            branch3x3dbl_1: layers.same("branch3x3dbl_1", [inputs, 448], [1, 1]),
            branch3x3dbl_2: layers.same("branch3x3dbl_2", [448, 384], [3, 3]),
            branch3x3dbl_3a: layers.same("branch3x3dbl_3a", [384, 384], row),
            branch3x3dbl_3b: layers.same("branch3x3dbl_3b", [384, 384], column),
            branch_pool: layers.same("branch_pool", [inputs, 192], [1, 1]),
            pool,
        }
    }

    /// # Shapes
    /// * `x`: `[batch, in, height, width]`, result: `[batch, 2048, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let single = self.branch3x3_1.forward(x.clone());
        let double = chain(&x, &[&self.branch3x3dbl_1, &self.branch3x3dbl_2]);
        let branches = vec![
            self.branch1x1.forward(x.clone()),
            self.branch3x3_2a.forward(single.clone()),
            self.branch3x3_2b.forward(single),
            self.branch3x3dbl_3a.forward(double.clone()),
            self.branch3x3dbl_3b.forward(double),
            self.branch_pool.forward(self.pool.apply(x)),
        ];
        Tensor::cat(branches, 1)
    }
}
