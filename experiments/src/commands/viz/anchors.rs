//! Where heat maps are anchored.

use anyhow::{Result, bail, ensure};
use rand::RngExt;
use realign::plugin::PatchGrid;
use realign::streams::Streams;

/// A point of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anchor {
    /// Share of the height from the top.
    pub y: f64,
    /// Share of the width from the left.
    pub x: f64,
}

/// The points of the published figures (iREPA `scripts/viz_spatialnorm.py` with its seed 42).
const PUBLISHED: [Anchor; 4] = [
    Anchor { y: 0.5, x: 0.5 },
    Anchor { y: 0.63943, x: 0.02501 },
    Anchor { y: 0.27503, x: 0.22321 },
    Anchor { y: 0.73647, x: 0.67670 },
];
const LEAST_DISTANCE: f64 = 0.15; // along the farther axis, to all points before
const TRIES: usize = 500;
const MOST: usize = 16; // more make a figure that nobody can read

impl Anchor {
    /// The token it lies on: `round(v · (side − 1))`, half to even.
    pub fn cell(&self, grid: PatchGrid) -> (usize, usize) {
        let at = |share: f64, side: usize| (share * side.saturating_sub(1) as f64).round_ties_even() as usize;
        (at(self.y, grid.rows), at(self.x, grid.columns))
    }
}

/// `--points`: a count, of which the first four are the published ones and further ones drawn, or the points.
pub fn anchors(text: &str, seed: u64) -> Result<Vec<Anchor>> {
    if let Ok(count) = text.trim().parse::<usize>() {
        ensure!((1..=MOST).contains(&count), "--points {count}: allowed is 1 to {MOST}");
        return Ok(drawn(count, seed));
    }
    let mut points = vec![];
    for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
        let numbers: Vec<f64> = pair.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        match numbers[..] {
            [y, x] if [y, x].iter().all(|share| (0.0..=1.0).contains(share)) && pair.split(',').count() == 2 => {
                points.push(Anchor { y, x });
            }
            _ => bail!(
                "--points: found `{}`; expected a number of points, or `y,x` in 0..1 each: `0.5,0.5; 0.2,0.7`",
                pair.trim()
            ),
        }
    }
    ensure!((1..=MOST).contains(&points.len()), "--points: found {} points; allowed is 1 to {MOST}", points.len());
    Ok(points)
}

fn drawn(count: usize, seed: u64) -> Vec<Anchor> {
    let mut points: Vec<Anchor> = PUBLISHED[..count.min(4)].to_vec();
    let mut stream = Streams::new(seed).stream("viz_points");
    while points.len() < count {
        let mut point = PUBLISHED[0];
        for _ in 0..TRIES {
            point = Anchor { y: stream.random(), x: stream.random() };
            let is_apart = |other: &Anchor| (point.y - other.y).abs().max((point.x - other.x).abs()) >= LEAST_DISTANCE;
            if points.iter().all(is_apart) {
                break;
            }
        }
        points.push(point);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_points_lie_on_the_published_tokens() {
        let grid = PatchGrid::new(16, 16);
        let cells: Vec<_> = anchors("4", 0).unwrap().iter().map(|point| point.cell(grid)).collect();
        assert_eq!(cells, [(8, 8), (10, 0), (4, 3), (11, 10)]);
        assert_eq!(Anchor { y: 1.0, x: 0.0 }.cell(PatchGrid::new(5, 7)), (4, 0));
    }

    #[test]
    fn further_points_keep_their_distance() {
        let points = anchors("9", 3).unwrap();
        for (i, a) in points.iter().enumerate() {
            let far = |b: &Anchor| (a.y - b.y).abs().max((a.x - b.x).abs()) >= LEAST_DISTANCE;
            assert!(points[..i].iter().all(far), "{points:?}");
        }
    }

    #[test]
    fn points_are_read_and_wrong_ones_refused() {
        assert_eq!(anchors("0.5,0.25; 1,0", 0).unwrap(), [Anchor { y: 0.5, x: 0.25 }, Anchor { y: 1.0, x: 0.0 }]);
        for wrong in ["0", "17", "0.5", "0.5,2", "a,b", ";", "0.1,0.2,0.3"] {
            assert!(anchors(wrong, 0).unwrap_err().to_string().contains("--points"), "{wrong}");
        }
    }
}
