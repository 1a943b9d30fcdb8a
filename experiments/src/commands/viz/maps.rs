//! Self-similarity of one picture's tokens.

use anyhow::{Result, ensure};
use realign::burn::tensor::Tensor;
use realign::eval::principal_colors;
use realign::eval::spatial::{cosine_kernel, manhattan, mean_of_numbers};
use realign::plugin::PatchGrid;
use realign::weights::to_host;

use super::Anchor;

const EPS: f64 = 1e-12; // as the published script

/// How far tokens that have little to do with one another look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffObject {
    /// From all tokens on the object to all tokens around it.
    Mask,
    /// Without a mask: from the anchors to tokens at least half the grid's rows away.
    Far,
}

impl OffObject {
    /// For the reader of the number.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Mask => "mean cosine from tokens on the object (its mask) to tokens off it",
            Self::Far => {
                "no masks, so mean cosine from the anchors to tokens at a Manhattan distance of half the grid and more"
            }
        }
    }
}

/// What the figure shows of one picture's tokens.
#[derive(Debug, Clone)]
pub struct Maps {
    /// Cosine similarity of each anchor with all tokens, `[tokens]` each.
    pub maps: Vec<Vec<f32>>,
    /// Principal components as colors, 0..1.
    pub colors: Vec<[f64; 3]>,
    /// Mean off-object similarity.
    pub off_object: f64,
    /// What that is.
    pub how: OffObject,
}

/// Whether the second token is off the first one's object.
type IsOff<'a> = Box<dyn Fn(usize, usize) -> bool + 'a>;

impl Maps {
    /// # Shapes
    /// * `tokens`: `[1, grid.tokens(), channels]`
    /// * `mask`: `[grid.tokens()]`, 1 on the object
    ///
    /// # Errors
    /// The tokens do not fill the grid.
    pub fn new(tokens: Tensor<3>, grid: PatchGrid, anchors: &[Anchor], mask: Option<&[f32]>) -> Result<Self> {
        let [_, count, channels] = tokens.dims();
        ensure!(count == grid.tokens() && count > 0, "{count} tokens do not fill a grid of {grid}");
        let colors = principal_colors(&to_host(tokens.clone()), channels);
        let kernel = to_host(cosine_kernel(tokens, EPS));
        let row = |token: usize| &kernel[token * count..(token + 1) * count];
        let cells: Vec<usize> =
            anchors.iter().map(|anchor| anchor.cell(grid)).map(|(y, x)| y * grid.columns + x).collect();
        let (from, is_off, how): (Vec<usize>, IsOff<'_>, _) = match mask {
            Some(mask) => {
                let object = (0..count).filter(|token| mask[*token] > 0.5).collect();
                (object, Box::new(|_, token| mask[token] <= 0.5), OffObject::Mask)
            }
            None => {
                let is_far = move |a, b| 2 * manhattan(grid, a, b) >= grid.rows;
                (cells.clone(), Box::new(is_far), OffObject::Far)
            }
        };
        let similar = |anchor: usize| {
            let off = (0..count).filter(|token| is_off(anchor, *token)).map(|token| f64::from(row(anchor)[token]));
            mean_of_numbers(&off.collect::<Vec<_>>())
        };
        let off_object = mean_of_numbers(&from.into_iter().map(similar).collect::<Vec<_>>());
        Ok(Self { maps: cells.into_iter().map(|cell| row(cell).to_vec()).collect(), colors, off_object, how })
    }
}

#[cfg(test)]
mod tests {
    use realign::burn::tensor::Device;

    use super::*;

    #[test]
    fn maps_and_off_object_similarity_of_two_halves_are_worked_by_hand() {
        // Two rows of three; the last column points elsewhere.
        let tokens = [[[1.0, 0.0], [2.0, 0.0], [0.0, 5.0], [1.0, 0.0], [3.0, 0.0], [1.0, 1.0]]];
        let tokens = Tensor::<3>::from_floats(tokens, &Device::flex());
        let grid = PatchGrid::new(2, 3);
        let anchor = Anchor { y: 0.0, x: 0.0 };
        let mask = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0];
        let found = Maps::new(tokens.clone(), grid, &[anchor], Some(&mask)).unwrap();
        let half = 0.5f32.sqrt();
        let is_near = |a: &f32, b: &f32| (a - b).abs() < 1e-6;
        assert!(found.maps[0].iter().zip(&[1.0, 1.0, 0.0, 1.0, 1.0, half]).all(|(a, b)| is_near(a, b)));
        assert!((found.off_object - f64::from(half) / 2.0).abs() < 1e-6);
        // Without a mask everything but the anchor is half of two rows away.
        let far = Maps::new(tokens.clone(), grid, &[anchor], None).unwrap();
        assert!((far.off_object - (3.0 + f64::from(half)) / 5.0).abs() < 1e-6 && far.how == OffObject::Far);
        assert!(Maps::new(tokens, PatchGrid::new(2, 2), &[anchor], None).is_err());
    }
}
