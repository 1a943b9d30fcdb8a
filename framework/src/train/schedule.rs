//! Learning rate by step.

use std::f64::consts::PI;

use crate::recipe::{ScheduleShape, TrainSection};

/// The learning rate of optimizer step `step`, counted from 0.
///
/// The warm-up multiplies by `(step + 1) / warmup_steps`, so the first step already moves.
pub fn learning_rate(train: &TrainSection, step: u64) -> f64 {
    let schedule = train.schedule;
    let warmup = ((step + 1) as f64 / schedule.warmup_steps.max(1) as f64).min(1.0);
    let begin = schedule.decay_from * train.steps as f64;
    let span = train.steps as f64 - begin;
    let done = if span > 0.0 { ((step as f64 - begin) / span).clamp(0.0, 1.0) } else { 0.0 };
    let left = match schedule.shape {
        ScheduleShape::Constant => 1.0,
        ScheduleShape::Linear => 1.0 - done,
        ScheduleShape::Cosine => (1.0 + (PI * done).cos()) / 2.0,
    };
    let fraction = schedule.final_fraction + (1.0 - schedule.final_fraction) * left;
    train.learning_rate * warmup * fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::ScheduleSection;

    fn rates(shape: ScheduleShape, steps: [u64; 4]) -> [f64; 4] {
        let schedule = ScheduleSection { shape, warmup_steps: 10, decay_from: 0.5, final_fraction: 0.1 };
        let train = TrainSection {
            steps: 100,
            global_batch_size: 1,
            micro_batch_size: 1,
            learning_rate: 2.0,
            schedule,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: None,
            ema: vec![],
        };
        steps.map(|step| learning_rate(&train, step))
    }

    #[test]
    fn the_rate_rises_holds_and_falls() {
        let near = |found: [f64; 4], expected: [f64; 4]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {expected:?}");
        };
        near(rates(ScheduleShape::Constant, [0, 4, 9, 99]), [0.2, 1.0, 2.0, 2.0]);
        near(rates(ScheduleShape::Linear, [20, 50, 75, 100]), [2.0, 2.0, 1.1, 0.2]);
        near(rates(ScheduleShape::Cosine, [20, 50, 75, 100]), [2.0, 2.0, 1.1, 0.2]);
    }
}
