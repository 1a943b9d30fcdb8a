//! Names beside points, out of each other's way.

/// A box of pixels: left, top, width, height.
pub(super) type Place = [i32; 4];

/// Where each text of the given size goes beside its point: to the right, or where it covers least.
pub(super) fn place_labels(points: &[(i32, i32)], sizes: &[(i32, i32)], gap: i32, inside: Place) -> Vec<(i32, i32)> {
    let mark = |(x, y): (i32, i32)| [x - gap / 2, y - gap / 2, gap, gap];
    let mut taken: Vec<Place> = points.iter().map(|point| mark(*point)).collect();
    let mut places = vec![];
    for (&(x, y), &(width, height)) in points.iter().zip(sizes) {
        let (left, right) = (x - gap - width, x + gap);
        let (above, below, level) = (y - gap - height, y + gap, y - height / 2);
        let middle = x - width / 2;
        let tried = [
            (right, level),
            (left, level),
            (middle, above),
            (middle, below),
            (right, above),
            (right, below),
            (left, above),
            (left, below),
        ];
        let cost = |(left, top): (i32, i32)| {
            let place = [left, top, width, height];
            let covered: i64 = taken.iter().map(|other| overlap(place, *other)).sum();
            let outside = i64::from(width) * i64::from(height) - overlap(place, inside);
            covered + 4 * outside
        };
        let best = tried.into_iter().min_by_key(|place| cost(*place)).unwrap_or((right, level));
        taken.push([best.0, best.1, width, height]);
        places.push(best);
    }
    places
}

fn overlap(a: Place, b: Place) -> i64 {
    let along = |axis: usize| (a[axis] + a[axis + 2]).min(b[axis] + b[axis + 2]) - a[axis].max(b[axis]);
    i64::from(along(0).max(0)) * i64::from(along(1).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_neighbors_do_not_cover_one_another() {
        let points = [(100, 100), (104, 100), (100, 106)];
        let sizes = [(40, 12); 3];
        let places = place_labels(&points, &sizes, 8, [0, 0, 300, 300]);
        for (i, a) in places.iter().enumerate() {
            for b in &places[..i] {
                assert_eq!(overlap([a.0, a.1, 40, 12], [b.0, b.1, 40, 12]), 0, "{places:?}");
            }
        }
    }

    #[test]
    fn names_at_the_edge_stay_inside() {
        let places = place_labels(&[(290, 100)], &[(40, 12)], 8, [0, 0, 300, 300]);
        assert!(places[0].0 + 40 <= 300);
    }
}
