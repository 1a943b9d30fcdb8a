//! Learning rate by step.

use std::f64::consts::PI;

use crate::recipe::{ScheduleShape, TrainSection};

/// The learning rate of optimizer step `step`, counted from 0.
///
/// The warm-up multiplies by `(step + 1) / warmup_steps`, so the first step already moves, or by `step / warmup_steps`
/// with `warmup_from_zero`.
pub fn learning_rate(train: &TrainSection, step: u64) -> f64 {
    let schedule = train.schedule;
    let warmup_steps = schedule.warmup_steps;
    let reached = if schedule.warmup_from_zero { step } else { step + 1 };
    let warmup = if warmup_steps == 0 { 1.0 } else { (reached as f64 / warmup_steps as f64).min(1.0) };
    let begin = schedule.decay_from * train.steps as f64;
    let span = train.steps as f64 - begin;
    let done = if span > 0.0 { ((step as f64 - begin) / span).clamp(0.0, 1.0) } else { 0.0 };
    let left = match schedule.shape {
        ScheduleShape::Constant => 1.0,
        ScheduleShape::Linear => 1.0 - done,
        ScheduleShape::Cosine => (1.0 + (PI * done).cos()) / 2.0,
    };
    let fraction = schedule.final_fraction + (1.0 - schedule.final_fraction) * left;
    let by_batch = train.base_batch_size.map_or(1.0, |base| train.global_batch_size as f64 / base as f64);
    train.learning_rate * by_batch * warmup * fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Decayed, ScheduleSection};

    fn rates(shape: ScheduleShape, steps: [u64; 4]) -> [f64; 4] {
        steps.map(|step| learning_rate(&train(shape), step))
    }

    fn train(shape: ScheduleShape) -> TrainSection {
        let schedule =
            ScheduleSection { shape, warmup_steps: 10, decay_from: 0.5, final_fraction: 0.1, ..Default::default() };
        TrainSection {
            steps: 100,
            global_batch_size: 1,
            micro_batch_size: 1.into(),
            memory_limit: None,
            activation_checkpointing: false,
            learning_rate: 2.0,
            base_batch_size: None,
            schedule,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
            decayed: Decayed::All,
            max_grad_norm: None,
            ema: vec![],
        }
    }

    #[test]
    fn a_warm_up_may_start_at_zero_and_the_rate_may_follow_the_batch() {
        let mut train = train(ScheduleShape::Constant);
        train.schedule.warmup_from_zero = true;
        (train.global_batch_size, train.base_batch_size) = (512, Some(256));
        let rates = [0, 5, 10, 50].map(|step| learning_rate(&train, step));
        assert_eq!(rates, [0.0, 2.0, 4.0, 4.0]);
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
