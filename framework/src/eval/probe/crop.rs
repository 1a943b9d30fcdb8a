//! Random crops of pictures, as torchvision's `RandomResizedCrop` makes them.

use rand::RngExt;

use crate::data::image::RgbImage;
use crate::data::resample::{Filter, resize};

const SCALE: [f64; 2] = [0.08, 1.0]; // share of the picture's area
const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
const TRIES: usize = 10;

/// A crop of random area and shape, stretched to a square of `size` pixels (bicubic), mirrored half of the time.
///
/// Source: MAE `main_linprobe.py`; the draws are those of `stream`, not torchvision's.
pub fn random_resized_crop(picture: &RgbImage, size: usize, stream: &mut impl rand::Rng) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let mut window = None;
    for _ in 0..TRIES {
        let area = (width * height) as f64 * stream.random_range(SCALE[0]..=SCALE[1]);
        let ratio = stream.random_range(RATIO[0].ln()..=RATIO[1].ln()).exp();
        let [w, h] = [(area * ratio).sqrt(), (area / ratio).sqrt()].map(|side| side.round() as usize);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            window = Some([stream.random_range(0..=width - w), stream.random_range(0..=height - h), w, h]);
            break;
        }
    }
    // No crop of an allowed shape fits a very long picture: the largest middle part, as torchvision takes it.
    let [left, top, w, h] = window.unwrap_or_else(|| {
        let w = width.min((height as f64 * RATIO[1]).round() as usize).max(1);
        let h = height.min((width as f64 / RATIO[0]).round() as usize).max(1);
        [(width - w) / 2, (height - h) / 2, w, h]
    });
    let rows = (top..top + h).flat_map(|y| picture.row(y)[3 * left..3 * (left + w)].iter().copied());
    // The window lies inside the picture, so it has all its bytes.
    let cut = RgbImage::new(w, h, rows.collect()).unwrap_or_else(|_| picture.clone());
    let resized = resize(&cut, size, size, Filter::Bicubic);
    if stream.random::<bool>() { mirrored(&resized) } else { resized }
}

fn mirrored(picture: &RgbImage) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let rows = (0..height).flat_map(|y| picture.row(y).chunks_exact(3).rev().flatten().copied());
    RgbImage::new(width, height, rows.collect()).unwrap_or_else(|_| picture.clone()) // as many bytes as before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Streams;

    #[test]
    fn crops_are_squares_of_the_picture_and_half_are_mirrored() {
        let at = |i: usize| [(i % 40) as u8 * 6, (i / 40) as u8 * 4, 7];
        let picture = RgbImage::new(40, 60, (0..2400).flat_map(at).collect()).unwrap();
        let mut num_mirrored = 0;
        for i in 0..200 {
            let crop = random_resized_crop(&picture, 9, &mut Streams::new(1).at(i, 0).stream("crop"));
            assert_eq!((crop.width(), crop.height()), (9, 9));
            let row = crop.row(4);
            num_mirrored += usize::from(row[0] > row[24]);
            assert!(row[0] != row[24] && crop.row(0)[1] < crop.row(8)[1]);
        }
        assert!((70..130).contains(&num_mirrored), "{num_mirrored}");
    }

    #[test]
    fn pictures_of_one_pixel_and_of_one_row_can_be_cropped() {
        for (width, height) in [(1, 1), (300, 1), (1, 300)] {
            let picture = RgbImage::new(width, height, vec![9; width * height * 3]).unwrap();
            let crop = random_resized_crop(&picture, 5, &mut Streams::new(1).stream("crop"));
            assert!(crop.pixels().iter().all(|value| *value == 9) && crop.width() == 5);
        }
    }
}
