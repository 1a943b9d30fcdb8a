//! Named random streams: every draw is a function of run seed, stream name, step and micro-batch.
//!
//! Nothing has to be saved for an exact resume, and a new consumer of randomness never moves another's draws.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

/// The source of all randomness at one point of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step, counted from 0.
    pub step: u64,
    /// Micro-batch inside the step.
    pub micro: u64,
    /// Process of a distributed run.
    pub rank: u64,
}

impl Streams {
    /// Streams of step 0 of a run.
    pub fn new(seed: u64) -> Self {
        Self { seed, step: 0, micro: 0, rank: 0 }
    }

    /// The same run at another step and micro-batch.
    pub fn at(self, step: u64, micro: u64) -> Self {
        Self { step, micro, ..self }
    }

    /// The generator called `name`.
    ///
    /// ```
    /// use realign::streams::Streams;
    /// let streams = Streams::new(7).at(3, 0);
    /// assert_eq!(streams.normal("noise", 4), streams.normal("noise", 4));
    /// assert_ne!(streams.normal("noise", 4), streams.normal("times", 4));
    /// ```
    pub fn stream(&self, name: &str) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        for number in [self.seed, self.step, self.micro, self.rank] {
            hash.update(number.to_le_bytes());
        }
        hash.update(name.as_bytes());
        ChaCha8Rng::from_seed(hash.finalize().into())
    }

    /// `count` standard normal draws of the stream `name`.
    pub fn normal(&self, name: &str, count: usize) -> Vec<f32> {
        let mut stream = self.stream(name);
        (0..count).map(|_| stream.sample(StandardNormal)).collect()
    }

    /// `count` uniform draws in `[0, 1)` of the stream `name`.
    pub fn uniform(&self, name: &str, count: usize) -> Vec<f32> {
        let mut stream = self.stream(name);
        (0..count).map(|_| stream.random::<f32>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_names_and_seeds_give_different_draws() {
        let base = Streams::new(1).at(2, 3);
        let others =
            [Streams::new(2).at(2, 3), Streams::new(1).at(3, 3), Streams::new(1).at(2, 4), Streams { rank: 1, ..base }];
        for other in others {
            assert_ne!(base.uniform("a", 3), other.uniform("a", 3));
        }
        assert_ne!(base.uniform("a", 3), base.uniform("b", 3));
    }

    #[test]
    fn normal_draws_have_unit_deviation() {
        let draws = Streams::new(5).normal("noise", 20_001);
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / draws.len() as f32;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
