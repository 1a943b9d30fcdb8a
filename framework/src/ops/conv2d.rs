//! Convolution over a grid of tokens.

use burn::tensor::{Tensor, module, ops::ConvOptions};

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
    #[cfg(feature = "tch")]
    if super::on_libtorch(&tokens.device()) {
        return fused::grid_conv2d(tokens, grid, weight, bias);
    }
    let [batch, _, channels] = tokens.dims();
    let [out, _, kernel_h, kernel_w] = weight.dims();
    let [rows, columns] = grid;
    let picture = tokens.swap_dims(1, 2).reshape([batch, channels, rows, columns]);
    let options = ConvOptions::new([1, 1], [kernel_h / 2, kernel_w / 2], [1, 1], 1);
    let picture = module::conv2d(picture, weight, Some(bias), options);
    picture.reshape([batch, out, rows * columns]).swap_dims(1, 2)
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::dual;
    use crate::ops::libtorch::{Handle, Prim, T, check, fresh, handle, own, register};

    unsafe extern "C" {
        fn rl_conv2d_backward(
            g: Handle,
            x: Handle,
            w: Handle,
            pad_h: i64,
            pad_w: i64,
            need_x: i32,
            gx: *mut Handle,
            gw: *mut Handle,
            gb: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait GridConvOp: Backend {
        fn fused_grid_conv(
            x: FloatTensor<Self>,
            rows: usize,
            columns: usize,
            w: FloatTensor<Self>,
            b: FloatTensor<Self>,
        ) -> FloatTensor<Self>;
    }

    pub fn grid_conv2d(x: Tensor<3>, [rows, columns]: [usize; 2], w: Tensor<4>, b: Tensor<1>) -> Tensor<3> {
        Tensor::from_dispatch(<Dispatch as GridConvOp>::fused_grid_conv(
            x.into_dispatch(),
            rows,
            columns,
            w.into_dispatch(),
            b.into_dispatch(),
        ))
    }

    /// Tokens as a channels-last picture, without a copy.
    fn picture(tokens: &T, rows: usize, columns: usize) -> T {
        let size = tokens.size();
        tokens.contiguous().view([size[0], rows as i64, columns as i64, size[2]]).permute([0, 3, 1, 2])
    }

    fn tokens(picture: &T) -> T {
        let size = picture.size();
        picture.permute([0, 2, 3, 1]).reshape([size[0], size[2] * size[3], size[1]])
    }

    fn padding(w: &T) -> [i64; 2] {
        let size = w.size();
        [size[2] / 2, size[3] / 2]
    }

    fn convolve(x: &T, [rows, columns]: [usize; 2], w: &T, b: Option<&T>) -> T {
        tokens(&picture(x, rows, columns).conv2d(w, b, [1, 1], padding(w), [1, 1], 1))
    }

    /// Inputs without tangents, and the result.
    fn evaluate(inputs: [Prim; 3], grid: [usize; 2]) -> ([Prim; 3], Prim) {
        let ([x, w, b], tangents) = dual::part(inputs);
        let y = fresh(convolve(&x.tensor, grid, &w.tensor, Some(&b.tensor)));
        let tangent = tangents.and_then(|[dx, dw, db]| {
            let by_x = dx.map(|dx| convolve(&dx, grid, &w.tensor, None));
            let by_w = dw.map(|dw| convolve(&x.tensor, grid, &dw, None));
            let by_b = db.map(|db| db.expand_as(&y.tensor).copy());
            dual::sum([by_x, by_w, by_b])
        });
        ([x, w, b], dual::join(y, tangent))
    }

    impl GridConvOp for LibTorch {
        fn fused_grid_conv(x: Prim, rows: usize, columns: usize, w: Prim, b: Prim) -> Prim {
            evaluate([x, w, b], [rows, columns]).1
        }
    }

    #[derive(Debug)]
    struct GridConvBackward;
    impl Backward<LibTorch, 3> for GridConvBackward {
        type State = (Prim, Prim, usize, usize);
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x, to_w, to_b] = ops.parents.map(|node| node.map(|node| node.id));
            let (x, w, rows, columns) = ops.state;
            let g = picture(&grads.consume::<LibTorch>(&ops.node).tensor, rows, columns);
            let x = picture(&x.tensor, rows, columns);
            let [pad_h, pad_w] = padding(&w.tensor);
            let null = std::ptr::null_mut();
            let (mut gx, mut gw, mut gb) = (null, null, null);
            // SAFETY: live tensors in, owned tensors out; `gx` stays null when it is not asked for.
            check(unsafe {
                let need_x = i32::from(to_x.is_some());
                let (g, x, w) = (handle(&g), handle(&x), handle(&w.tensor));
                rl_conv2d_backward(g, x, w, pad_h, pad_w, need_x, &mut gx, &mut gw, &mut gb)
            });
            if to_x.is_some() {
                register(grads, to_x, fresh(tokens(&own(gx))));
            }
            // libtorch returns the weight's gradient channels-last; in-place optimizers walk raw memory.
            register(grads, to_w, fresh(own(gw).contiguous()));
            register(grads, to_b, fresh(own(gb)));
        }
    }

    impl<C: CheckpointStrategy> GridConvOp for Autodiff<LibTorch, C> {
        fn fused_grid_conv(
            x: FloatTensor<Self>,
            rows: usize,
            columns: usize,
            w: FloatTensor<Self>,
            b: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let ((x, to_x), (w, to_w), (b, to_b)) = (x.into_parts(), w.into_parts(), b.into_parts());
            let ([x, w, _], y) = evaluate([x, w, b], [rows, columns]);
            match GridConvBackward.prepare::<C>([to_x, to_w, to_b]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((x, w, rows, columns), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
