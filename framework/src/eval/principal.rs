//! The first principal components of the tokens of one image, as colors.

/// Values of three components for every token, each stretched to 0..1: what is alike has one color.
///
/// Components beyond the rank of the tokens are ½ everywhere. Orthogonal iteration in f64 from fixed starts; the sign of
/// each component is that of its largest entry.
///
/// # Shapes
/// * `tokens`: `[count, channels]`
pub fn principal_colors(tokens: &[f32], channels: usize) -> Vec<[f64; 3]> {
    let mut rows: Vec<Vec<f64>> =
        tokens.chunks_exact(channels.max(1)).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
    center(&mut rows);
    let mut colors = vec![[0.5; 3]; rows.len()];
    let mut found: Vec<Vec<f64>> = vec![];
    for component in 0..3 {
        let Some(direction) = leading(&rows, &found, channels) else { break };
        let mut scores: Vec<f64> = rows.iter().map(|row| dot(row, &direction)).collect();
        let largest = scores.iter().copied().fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
        scores.iter_mut().for_each(|score| *score *= largest.signum());
        let low = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (color, score) in colors.iter_mut().zip(scores) {
            color[component] = (score - low) / (high - low).max(f64::MIN_POSITIVE);
        }
        found.push(direction);
    }
    colors
}

const ITERATIONS: usize = 60; // enough for colors: components of nearly equal strength may mix, which no eye sees

fn center(rows: &mut [Vec<f64>]) {
    let Some(channels) = rows.first().map(Vec::len) else { return };
    for channel in 0..channels {
        let mean = rows.iter().map(|row| row[channel]).sum::<f64>() / rows.len() as f64;
        rows.iter_mut().for_each(|row| row[channel] -= mean);
    }
}

/// The direction of the largest variance that is orthogonal to those found; nothing when there is none left.
fn leading(rows: &[Vec<f64>], found: &[Vec<f64>], channels: usize) -> Option<Vec<f64>> {
    let scale: f64 = rows.iter().map(|row| dot(row, row)).sum();
    let mut direction: Vec<f64> = (0..channels).map(|i| ((i * 7 + 1) as f64).sin()).collect();
    for _ in 0..ITERATIONS {
        let mut next = vec![0.0; channels];
        for row in rows {
            let score = dot(row, &direction);
            next.iter_mut().zip(row).for_each(|(sum, x)| *sum += score * x);
        }
        for other in found {
            let share = dot(&next, other);
            next.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
        }
        let length = dot(&next, &next).sqrt();
        if length <= 1e-12 * scale {
            return None;
        }
        direction = next.into_iter().map(|x| x / length).collect();
    }
    Some(direction)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_component_tells_two_groups_apart() {
        let tokens: Vec<f32> =
            (0..35).flat_map(|t| if t % 5 < 2 { [9.0, 1.0, 0.0] } else { [-3.0, 1.0, 0.0] }).collect();
        let colors = principal_colors(&tokens, 3);
        for (t, color) in colors.iter().enumerate() {
            assert!((color[0] - f64::from(u8::from(t % 5 < 2))).abs() < 1e-9, "{t} {color:?}");
            assert_eq!(color[1..], [0.5, 0.5]);
        }
    }

    #[test]
    fn components_are_ordered_by_their_variance() {
        let axis = |t: usize, i: usize| [(t % 7) as f32 * 5.0, (t / 7) as f32, ((t * 3) % 4) as f32 * 0.1][i];
        let tokens: Vec<f32> = (0..35 * 3).map(|at| axis(at / 3, at % 3)).collect();
        let colors = principal_colors(&tokens, 3);
        // Along a row the first component changes evenly, along a column it does not.
        let step = |a: usize, b: usize| (colors[a][0] - colors[b][0]).abs();
        assert!((step(0, 6) - 1.0).abs() < 0.05 && step(0, 28) < 0.05, "{} {}", step(0, 6), step(0, 28));
    }

    #[test]
    fn equal_tokens_and_none_have_no_component() {
        assert!(principal_colors(&[2.0; 24], 4).iter().all(|color| *color == [0.5; 3]));
        assert!(principal_colors(&[], 4).is_empty());
    }
}
