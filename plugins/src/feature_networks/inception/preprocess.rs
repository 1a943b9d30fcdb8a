//! From pictures to the network's pixels, as each evaluator has them.

use realign::burn::tensor::Tensor;
use realign::nn::Resampling;
use realign::ops;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::SIDE;

/// Whose numbers are meant; numbers of two conventions must not be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// ADM's evaluator, which the paper and most of the field quote: TensorFlow 1's resize, parts of 5000 for the score.
    #[default]
    Adm,
    /// torch-fidelity, which JiT quotes: the same pixels, 10 shuffled parts for the score.
    TorchFidelity,
    /// pytorch-fid: PyTorch's resize, pixels in −1..1.
    PytorchFid,
}

impl Convention {
    /// As recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adm => "adm",
            Self::TorchFidelity => "torch_fidelity",
            Self::PytorchFid => "pytorch_fid",
        }
    }

    /// Pixels of the network.
    ///
    /// # Shapes
    /// * `images`: `[batch, 3, height, width]`, RGB in 0..255
    /// * result: `[batch, 3, 299, 299]`
    pub fn pixels(self, images: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Adm | Self::TorchFidelity => (tensorflow_resize(images) - 128.0) / 128.0,
            Self::PytorchFid => Resampling::Bilinear.resize(images / 255.0, [SIDE, SIDE]) * 2.0 - 1.0,
        }
    }
}

/// TensorFlow 1's bilinear resize without aligned corners: pixel `i` of the result lies at `i · from / to` of the source.
fn tensorflow_resize(images: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = images.dims();
    let device = images.device();
    let map = |from: usize| ops::upload(&tensorflow_map(from, SIDE), [SIDE, from], &device);
    let rows = images.reshape([batch * channels * height, width]).matmul(map(width).transpose());
    let columns = rows.reshape([batch * channels, height, SIDE]);
    let map = map(height).unsqueeze::<3>().expand([batch * channels, SIDE, height]);
    map.matmul(columns).reshape([batch, channels, SIDE, SIDE])
}

/// Weights `[to, from]` of one axis; places are computed in f32, as there.
fn tensorflow_map(from: usize, to: usize) -> Vec<f32> {
    let mut map = vec![0.0; from * to];
    let scale = from as f32 / to as f32;
    for (i, row) in map.chunks_exact_mut(from.max(1)).enumerate() {
        let place = i as f32 * scale;
        // Places are at least 0 and below `from`.
        let low = (place.floor() as usize).min(from - 1);
        let high = (low + 1).min(from - 1);
        row[low] += 1.0 - (place - low as f32);
        row[high] += place - low as f32;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::Device;
    use realign::weights::to_host;

    #[test]
    fn the_resize_is_tensorflows() {
        // Twice as large: every second pixel is the source's, the others lie half-way, and the last one is repeated.
        let map = tensorflow_map(3, 6);
        let source = [4.0, 8.0, 2.0];
        let resized: Vec<f32> = map.chunks(3).map(|row| row.iter().zip(source).map(|(w, x)| w * x).sum()).collect();
        assert_eq!(resized, [4.0, 6.0, 8.0, 5.0, 2.0, 2.0]);
        // Smaller: pixels are left out, and nothing is averaged.
        assert_eq!(tensorflow_map(4, 2), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn black_and_white_are_the_ends_of_each_convention() {
        let ends = |convention: Convention| {
            let images = Tensor::<4>::from_floats([[[[0.0, 0.0], [255.0, 255.0]]]], &Device::flex());
            let pixels = to_host(convention.pixels(images.expand([1, 3, 2, 2])));
            assert_eq!(pixels.len(), 3 * SIDE * SIDE);
            [pixels[0], pixels[SIDE * SIDE - 1]]
        };
        assert_eq!(ends(Convention::Adm), [-1.0, 127.0 / 128.0]);
        assert_eq!(ends(Convention::TorchFidelity), ends(Convention::Adm));
        assert_eq!(ends(Convention::PytorchFid), [-1.0, 1.0]);
    }
}
