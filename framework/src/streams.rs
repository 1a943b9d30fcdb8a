//! Named random streams: every draw is a function of run seed, stream name, step and micro-batch.
//!
//! Nothing has to be saved for an exact resume, and a new consumer of randomness never moves another's draws.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use sha2::{Digest, Sha256};

/// Draws of one stream of the generator.
const DRAWN_AT_ONCE: usize = 1 << 20;

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
    ///
    /// Every further 2²⁰ draws are of a stream of their own, so that all processors draw at once: noise for 256 pictures of
    /// 256 pixels takes one of them most of a second.
    pub fn normal(&self, name: &str, count: usize) -> Vec<f32> {
        let first = self.stream(name);
        let mut draws = vec![0.0; count];
        let draw = |(part, draws): (usize, &mut [f32])| {
            let mut stream = first.clone();
            stream.set_stream(part as u64);
            draws.fill_with(|| stream.sample(StandardNormal));
        };
        if count <= DRAWN_AT_ONCE {
            draw((0, &mut draws));
        } else {
            draws.par_chunks_mut(DRAWN_AT_ONCE).enumerate().for_each(draw);
        }
        draws
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
    fn draws_go_on_in_streams_of_their_own() {
        let streams = Streams::new(6);
        let all = streams.normal("noise", 2 * DRAWN_AT_ONCE + 5);
        assert_eq!(all, streams.normal("noise", 2 * DRAWN_AT_ONCE + 5));
        assert_eq!(all[..1000], streams.normal("noise", 1000));
        let (first, others) = all.split_at(DRAWN_AT_ONCE);
        assert_ne!(first[..5], others[..5]);
        assert_ne!(others[..5], all[2 * DRAWN_AT_ONCE..]);
        assert!(others.iter().all(|draw| *draw != 0.0));
    }

    #[test]
    fn normal_draws_have_unit_deviation() {
        let draws = Streams::new(5).normal("noise", 20_001);
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / draws.len() as f32;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
