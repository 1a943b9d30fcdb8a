//! Convolution of pictures, and over a grid of tokens.

use burn::tensor::{Tensor, module, ops::ConvOptions};

/// Step and zero padding of a convolution, the same along both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Pixels between two places of the kernel, at least 1.
    pub stride: usize,
    /// Rows of zeros above and columns of zeros to the left.
    pub before: usize,
    /// Rows of zeros below and columns of zeros to the right.
    pub after: usize,
}

impl ConvShape {
    /// Stride 1 and the padding that keeps the picture's size, for an odd kernel.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, before: kernel / 2, after: kernel / 2 }
    }
}

/// PyTorch's `conv2d`. On libtorch pictures lie channels-last in memory, which its kernels are fastest on.
///
/// # Shapes
/// * `x`: `[batch, in, height, width]`
/// * `weight`: `[out, in, kernel, kernel]`
/// * `bias`: `[out]`
/// * result: `[batch, out, rows, columns]`, rows and columns `(size + before + after − kernel) / stride + 1`
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, shape: ConvShape) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::conv2d(x, weight, bias, shape);
    }
    let ConvShape { stride, before, after } = shape;
    let convolve = |x: Tensor<4>, padding: usize| {
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        module::conv2d(x, weight, bias, options)
    };
    if before == after { convolve(x, before) } else { convolve(x.pad((before, after, before, after), 0.0), 0) }
}

/// A convolution of stride 1 with zero padding `kernel / 2`, which keeps the grid, on tokens in row-major order.
///
/// Tokens are already in channels-last order, so on libtorch nothing is copied to form the picture.
///
/// # Shapes
/// * `tokens`: `[batch, rows · columns, in]`
/// * `weight`: `[out, in, kernel, kernel]`, kernel odd
/// * `bias`: `[out]`
/// * result: `[batch, rows · columns, out]`
pub fn grid_conv2d(tokens: Tensor<3>, grid: [usize; 2], weight: Tensor<4>, bias: Tensor<1>) -> Tensor<3> {
    let ([batch, _, channels], [out, _, kernel, _], [rows, columns]) = (tokens.dims(), weight.dims(), grid);
    let picture = tokens.reshape([batch, rows, columns, channels]).permute([0, 3, 1, 2]);
    let picture = conv2d(picture, weight, Some(bias), ConvShape::same(kernel));
    picture.permute([0, 2, 3, 1]).reshape([batch, rows * columns, out])
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use super::ConvShape;
    use crate::ops::libtorch::{Handle, Prim, T, channels_last, check, fresh, handle, own, register};
    use crate::ops::{Precision, dual, half};

    unsafe extern "C" {
        fn rl_conv2d_backward(
            g: Handle,
            x: Handle,
            w: Handle,
            stride: i64,
            padding: i64,
            needs: i32,
            gx: *mut Handle,
            gw: *mut Handle,
            gb: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait ConvOp: Backend {
        fn fused_conv(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            b: FloatTensor<Self>,
            stride: usize,
            before: usize,
            after: usize,
        ) -> FloatTensor<Self>;
    }

    pub fn conv2d(x: Tensor<4>, w: Tensor<4>, b: Option<Tensor<1>>, shape: ConvShape) -> Tensor<4> {
        let ConvShape { stride, before, after } = shape;
        let b = b.unwrap_or_else(|| Tensor::zeros([w.dims()[0]], &w.device()));
        let (x, w, b) = (x.into_dispatch(), w.into_dispatch(), b.into_dispatch());
        Tensor::from_dispatch(<Dispatch as ConvOp>::fused_conv(x, w, b, stride, before, after))
    }

    impl ConvShape {
        /// The picture with what padding libtorch's convolution cannot add itself, and the padding that it can.
        fn padded(self, x: &T) -> (T, i64) {
            let (before, after) = (self.before as i64, self.after as i64);
            match before == after {
                true => (channels_last(x), before),
                false => (channels_last(x).constant_pad_nd([before, after, before, after]), 0),
            }
        }

        fn convolve(self, x: &T, w: &T, b: Option<&T>) -> T {
            let (x, padding) = self.padded(x);
            x.conv2d(w, b, [self.stride as i64; 2], [padding; 2], [1, 1], 1)
        }

        /// The picture as the backward pass needs it, the weight, and the result, for operands in bf16.
        fn evaluate_rounded(self, [x, w, b]: [Prim; 3]) -> ([Prim; 3], Prim) {
            let (x, weight) = (half::rounded_prim(x), half::rounded(&w.tensor));
            let y = self.convolve(&half::operand(&x.tensor), &half::operand(&weight), None);
            let mut y = half::result(&y);
            let _ = y.g_add_(&b.tensor.view([1, -1, 1, 1]));
            ([x, w, b], fresh(y))
        }

        /// Inputs without tangents as the backward pass needs them, and the result.
        fn evaluate(self, inputs: [Prim; 3]) -> ([Prim; 3], Prim) {
            if Precision::current() == Precision::Bf16 {
                return self.evaluate_rounded(inputs);
            }
            let ([x, w, b], tangents) = dual::part(inputs.map(half::full_prim));
            let y = fresh(self.convolve(&x.tensor, &w.tensor, Some(&b.tensor)));
            let tangent = tangents.and_then(|[dx, dw, db]| {
                let by_x = dx.map(|dx| self.convolve(&dx, &w.tensor, None));
                let by_w = dw.map(|dw| self.convolve(&x.tensor, &dw, None));
                let by_b = db.map(|db| db.view([1, -1, 1, 1]).expand_as(&y.tensor).copy());
                dual::sum([by_x, by_w, by_b])
            });
            ([x, w, b], dual::join(y, tangent))
        }
    }

    impl ConvOp for LibTorch {
        fn fused_conv(x: Prim, w: Prim, b: Prim, stride: usize, before: usize, after: usize) -> Prim {
            ConvShape { stride, before, after }.evaluate([x, w, b]).1
        }
    }

    /// Gradients of the padded picture and of the weight, as far as they are asked for, and of the bias.
    fn gradients(shape: ConvShape, [g, x, w]: [&T; 3], padding: i64, asked: [bool; 3]) -> [Option<T>; 3] {
        let mut found = [std::ptr::null_mut(); 3];
        let [gx, gw, gb] = &mut found;
        let needs = asked.iter().rev().fold(0, |bits, is_asked| bits << 1 | i32::from(*is_asked));
        // SAFETY: live tensors in, owned tensors out; those that are not asked for stay null.
        check(unsafe {
            rl_conv2d_backward(handle(g), handle(x), handle(w), shape.stride as i64, padding, needs, gx, gw, gb)
        });
        found.map(|gradient| (!gradient.is_null()).then(|| own(gradient)))
    }

    /// As [`gradients`], of operands in bf16; the bias has its own in f32.
    fn gradients_rounded(shape: ConvShape, [g, x, w]: [&T; 3], padding: i64, asked: [bool; 3]) -> [Option<T>; 3] {
        let [to_x, to_w, to_b] = asked;
        let bias = to_b.then(|| g.sum_dim_intlist(&[0i64, 2, 3][..], false, None));
        let [g, w] = [g, w].map(|operand| half::operand(&half::rounded(operand)));
        let [x, w_gradient, _] = gradients(shape, [&g, &half::operand(x), &w], padding, [to_x, to_w, false]);
        [x.map(|x| half::result(&x)), w_gradient.map(|w| half::result(&w)), bias]
    }

    impl Backward<LibTorch, 3> for ConvShape {
        type State = (Prim, Prim, Precision);
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let parents = ops.parents.map(|node| node.map(|node| node.id));
            let g = channels_last(&half::full(&grads.consume::<LibTorch>(&ops.node).tensor));
            let (x, w, precision) = ops.state;
            let size = x.tensor.size();
            let (x, padding) = self.padded(&x.tensor);
            let (operands, asked) = ([&g, &x, &w.tensor], parents.map(|node| node.is_some()));
            let [gx, gw, gb] = precision.scope(|| match precision {
                Precision::Bf16 => gradients_rounded(self, operands, padding, asked),
                Precision::F32 | Precision::Tf32 => gradients(self, operands, padding, asked),
            });
            let [to_x, to_w, to_b] = parents;
            if let Some(mut gx) = gx {
                if self.before != self.after {
                    let before = self.before as i64;
                    gx = channels_last(&gx.narrow(2, before, size[2]).narrow(3, before, size[3]));
                }
                register(grads, to_x, fresh(gx));
            }
            if let Some(gw) = gw {
                // libtorch returns the weight's gradient channels-last; in-place optimizers walk raw memory.
                register(grads, to_w, fresh(gw.contiguous()));
            }
            if let Some(gb) = gb {
                register(grads, to_b, fresh(gb));
            }
        }
    }

    impl<C: CheckpointStrategy> ConvOp for Autodiff<LibTorch, C> {
        fn fused_conv(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            b: FloatTensor<Self>,
            stride: usize,
            before: usize,
            after: usize,
        ) -> FloatTensor<Self> {
            let ((x, to_x), (w, to_w), (b, to_b)) = (x.into_parts(), w.into_parts(), b.into_parts());
            let shape = ConvShape { stride, before, after };
            let ([x, w, _], y) = shape.evaluate([x, w, b]);
            match shape.prepare::<C>([to_x, to_w, to_b]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((x, w, Precision::current()), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
