//! Which examples a step sees: a pure function of seed and step.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;

use crate::streams::Streams;

/// Shuffled order over epochs.
///
/// Epoch `e` is a permutation drawn from the stream `data_order` keyed by `e`. A step never spans two epochs:
/// what is left of an epoch after its last whole step is dropped, as with `drop_last`. A data set smaller
/// than one step wraps instead: the permutations of all epochs are joined and cut into steps, nothing dropped.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    num_examples: usize,
    step_size: usize,
    recent: Mutex<VecDeque<(u64, Arc<Vec<usize>>)>>, // the epochs in work; workers may straddle a boundary
}

impl Order {
    /// Order over `num_examples` examples, `step_size` per optimizer step; both at least 1.
    pub fn new(seed: u64, num_examples: usize, step_size: usize) -> Self {
        let recent = Mutex::new(VecDeque::new());
        Self { seed, num_examples: num_examples.max(1), step_size: step_size.max(1), recent }
    }

    /// Optimizer steps per epoch, rounded down; 0 when the data set is smaller than one step.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.num_examples / self.step_size) as u64
    }

    /// Epoch and place in its permutation of example `offset` of step `step`.
    fn position(&self, step: u64, offset: usize) -> (u64, usize) {
        let (size, count) = (self.step_size as u128, self.num_examples as u128);
        match self.steps_per_epoch() {
            0 => {
                let global = u128::from(step) * size + offset as u128;
                ((global / count) as u64, (global % count) as usize) // below 2^64: step is, and size/count of it is memory
            }
            steps => (step / steps, (step % steps) as usize * self.step_size + offset),
        }
    }

    /// Examples `offset..offset + count` of step `step`.
    pub fn examples(&self, step: u64, offset: usize, count: usize) -> Vec<usize> {
        let mut examples = Vec::with_capacity(count);
        let mut current: Option<(u64, Arc<Vec<usize>>)> = None;
        for at in offset..offset + count {
            let (epoch, place) = self.position(step, at);
            let permutation = match current.take() {
                Some((known, permutation)) if known == epoch => permutation,
                _ => self.permutation(epoch),
            };
            examples.push(permutation[place]);
            current = Some((epoch, permutation));
        }
        examples
    }

    fn permutation(&self, epoch: u64) -> Arc<Vec<usize>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, permutation)) = recent.iter().find(|(known, _)| *known == epoch) {
            return permutation.clone();
        }
        let permutation = Arc::new(shuffled(self.seed, epoch, self.num_examples));
        recent.push_back((epoch, permutation.clone()));
        if recent.len() > 2 {
            recent.pop_front();
        }
        permutation
    }
}

fn shuffled(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut stream = Streams::new(seed).at(epoch, 0).stream("data_order");
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // Multiply and shift, written out so that the order does not depend on a library's version.
        let other = (u128::from(stream.random::<u64>()) * (last as u128 + 1)) >> 64;
        order.swap(last, other as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_comes_once_per_epoch_and_epochs_differ() {
        let order = Order::new(3, 35, 7);
        let epoch = |e: u64| (0..5).flat_map(|s| order.examples(e * 5 + s, 0, 7)).collect::<Vec<_>>();
        let mut sorted = epoch(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..35).collect::<Vec<_>>());
        assert_ne!(epoch(0), epoch(1));
    }

    #[test]
    fn the_rest_of_an_epoch_is_dropped() {
        let order = Order::new(3, 38, 7);
        assert_eq!(order.steps_per_epoch(), 5);
        assert_eq!(order.examples(5, 0, 7), shuffled(3, 1, 38)[..7]);
    }

    #[test]
    fn a_data_set_smaller_than_a_step_wraps_without_dropping() {
        let order = Order::new(3, 5, 8);
        let seen: Vec<usize> = (0..5).flat_map(|step| order.examples(step, 0, 8)).collect();
        for example in 0..5 {
            assert_eq!(seen.iter().filter(|&&index| index == example).count(), 8);
        }
    }
}
