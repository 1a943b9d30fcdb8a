//! Cutting a map of tokens into square windows for attention, and putting it together again.

use realign::burn::tensor::Tensor;

/// Cuts a map into windows of `side` by `side` tokens, row by row; zeros fill the last ones to the right and below.
/// A side of 0 makes one window of the whole map.
///
/// # Shapes
/// * `map`: `[batch, height, width, channels]`
/// * result: `[batch · rows · columns, side, side, channels]`, and `[rows, columns]`
pub fn cut(map: Tensor<4>, side: usize) -> (Tensor<4>, [usize; 2]) {
    if side == 0 {
        return (map, [1, 1]);
    }
    let [batch, height, width, channels] = map.dims();
    let [rows, columns] = [height.div_ceil(side), width.div_ceil(side)];
    let map = fill(fill(map, 1, rows * side), 2, columns * side);
    let windows = map.reshape([batch, rows, side, columns, side, channels]).permute([0, 1, 3, 2, 4, 5]);
    (windows.reshape([batch * rows * columns, side, side, channels]), [rows, columns])
}

/// The map of `height` by `width` tokens that [`cut`] took apart; what was filled is dropped.
///
/// # Shapes
/// * `windows`: `[batch · rows · columns, side, other side, channels]`
/// * result: `[batch, height, width, channels]`
pub fn join(windows: Tensor<4>, [rows, columns]: [usize; 2], [height, width]: [usize; 2]) -> Tensor<4> {
    let [count, tall, wide, channels] = windows.dims();
    let batch = count / (rows * columns);
    let map = windows.reshape([batch, rows, columns, tall, wide, channels]).permute([0, 1, 3, 2, 4, 5]);
    map.reshape([batch, rows * tall, columns * wide, channels]).narrow(1, 0, height).narrow(2, 0, width)
}

fn fill(map: Tensor<4>, axis: usize, length: usize) -> Tensor<4> {
    let mut shape = map.dims();
    if shape[axis] == length {
        return map;
    }
    shape[axis] = length - shape[axis];
    let zeros = Tensor::zeros(shape, &map.device());
    Tensor::cat(vec![map, zeros], axis)
}

#[cfg(test)]
mod tests {
    use realign::burn::tensor::{Device, TensorData};
    use realign::weights::to_host;

    use super::*;

    fn map(shape: [usize; 4]) -> Tensor<4> {
        let values: Vec<f32> = (1..=shape.iter().product::<usize>()).map(|i| i as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    #[test]
    fn a_map_survives_being_cut_and_joined() {
        for side in [0, 1, 2, 3, 4, 9] {
            let (windows, layout) = cut(map([2, 5, 7, 3]), side);
            assert_eq!(to_host(join(windows, layout, [5, 7])), to_host(map([2, 5, 7, 3])), "side {side}");
        }
    }

    #[test]
    fn windows_hold_neighbors_and_zeros_where_the_map_ends() {
        let (windows, layout) = cut(map([1, 3, 5, 1]), 2);
        assert_eq!((windows.dims(), layout), ([6, 2, 2, 1], [2, 3]));
        let values = to_host(windows);
        assert_eq!(values[..4], [1.0, 2.0, 6.0, 7.0]);
        assert_eq!(values[20..], [15.0, 0.0, 0.0, 0.0]);
    }
}
