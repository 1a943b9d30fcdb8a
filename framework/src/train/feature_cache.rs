//! Features of frozen encoders, kept after their first use.
//!
//! A run with a cache has the losses of one without, bit for bit: features are only ever computed for a whole
//! micro-batch, as without a cache, and a batch of which one example is new is computed whole. What is left to differ
//! is whether an example's features depend on its neighbors in a batch of the same size. On libtorch's CPU and on flex
//! they do not, as measured with transformers and convolutions (convolutions do change with the *size* of the batch).
//! Because that is no promise of any library, and kernels for a batch's last rows do break it where tokens are few and
//! odd in number, the first batches read from a cache are computed too and compared.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::feature_file::FeatureFile;
use crate::ops;
use crate::weights::to_host;

/// Largest difference, relative to the largest feature, that rounding explains.
const MAX_ROUNDING: f32 = 1e-3;

/// Batches that are compared before a cache is trusted: examples meet other neighbors and other places in each.
const NUM_PROOFS: usize = 8;

/// The features of one encoder, by example.
#[derive(Debug)]
pub struct FeatureCache {
    shape: [usize; 2],
    is_strict: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    store: Option<Store>,
    num_proofs: usize,
    problems: Vec<String>,
}

/// Where features are kept.
#[derive(Debug)]
pub enum Store {
    /// By index of the example.
    Memory(Vec<Option<Box<[f32]>>>),
    /// A file on disk.
    Disk(FeatureFile),
}

impl FeatureCache {
    /// A cache of features of `shape`, `[tokens, channels]`. A strict one ends where features do not come out bit for
    /// bit; another ends where they differ by more than rounding. Either says so.
    pub fn new(store: Store, shape: [usize; 2], is_strict: bool) -> Self {
        let state = State { store: Some(store), num_proofs: 0, problems: vec![] };
        Self { shape, is_strict, state: Mutex::new(state) }
    }

    /// Features of a batch: from the cache where it has them all, else from `encode`, which is then kept.
    ///
    /// # Shapes
    /// * `indices`: `[batch]`; result: `[batch, tokens, channels]`
    ///
    /// # Errors
    /// Those of `encode`. A disk that fails ends the cache, not the run.
    pub fn features(
        &self,
        indices: &[usize],
        device: &Device,
        encode: impl FnOnce() -> Result<Tensor<3>>,
    ) -> Result<Tensor<3>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.store.as_ref().and_then(|store| store.read(indices, self.num_values()));
        if let Some(known) = known.as_ref().filter(|_| state.num_proofs >= NUM_PROOFS) {
            let [tokens, channels] = self.shape;
            return Ok(ops::upload(known, [indices.len(), tokens, channels], device));
        }
        let features = encode()?;
        if state.store.is_some() {
            let computed = to_host(features.clone());
            match known {
                Some(known) => state.prove(&known, &computed, self.is_strict),
                None => state.keep(indices, &computed, self.num_values()),
            }
        }
        Ok(features)
    }

    /// What went wrong since the last call.
    pub fn problems(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).problems)
    }

    fn num_values(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

impl Store {
    /// Empty memory for so many examples.
    pub fn memory(num_examples: usize) -> Self {
        Self::Memory(vec![None; num_examples])
    }

    fn read(&self, indices: &[usize], num_values: usize) -> Option<Vec<f32>> {
        let mut values = vec![0.0; indices.len() * num_values];
        let places = values.par_chunks_exact_mut(num_values.max(1)).zip(indices);
        places.all(|(values, &index)| self.read_one(index, values)).then_some(values)
    }

    /// Whether the example is known; its values are then written.
    fn read_one(&self, index: usize, values: &mut [f32]) -> bool {
        match self {
            Self::Memory(examples) => match examples.get(index) {
                Some(Some(known)) if known.len() == values.len() => {
                    values.copy_from_slice(known);
                    true
                }
                _ => false,
            },
            Self::Disk(file) => file.read(index, values),
        }
    }

    fn write(&mut self, index: usize, values: &[f32]) -> Result<()> {
        match self {
            Self::Memory(examples) => {
                if let Some(place) = examples.get_mut(index).filter(|place| place.is_none()) {
                    *place = Some(values.into());
                }
                Ok(())
            }
            Self::Disk(file) => file.write(index, values),
        }
    }
}

impl State {
    fn keep(&mut self, indices: &[usize], computed: &[f32], num_values: usize) {
        let Some(store) = &mut self.store else { return };
        for (&index, values) in indices.iter().zip(computed.chunks_exact(num_values.max(1))) {
            if let Err(problem) = store.write(index, values) {
                self.end(format!("{problem:#}; the run goes on without feature cache"));
                return;
            }
        }
    }

    /// Judges a cache by one of the first batches that it could serve.
    fn prove(&mut self, known: &[f32], computed: &[f32], is_strict: bool) {
        let is_equal = known.len() == computed.len()
            && known.iter().zip(computed).all(|(known, computed)| known.to_bits() == computed.to_bits());
        self.num_proofs += 1;
        if is_equal {
            return;
        }
        self.num_proofs = NUM_PROOFS; // it is told once
        let largest = computed.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        let gaps = known.iter().zip(computed).map(|(known, computed)| (known - computed).abs() / largest);
        let gap = gaps.fold(0.0, |largest: f32, gap| if gap > largest || gap.is_nan() { gap } else { largest });
        // A gap that is no number is no rounding either.
        let is_rounding = gap <= MAX_ROUNDING && known.len() == computed.len();
        let found = format!("cached features differ from the encoder's by {gap:.1e} of the largest");
        match (is_rounding, is_strict) {
            (true, false) => {
                self.problems.push(format!("{found}: losses differ in their last digits from a run without cache"))
            }
            (true, true) => self.end(format!(
                "{found}: on this device they depend on the batch; the run goes on without feature cache, as it began. \
                 Set `cache.features` to `memory` or `disk` to accept the difference"
            )),
            (false, _) => self
                .end(format!("{found}, more than rounding; the run goes on without feature cache; remove its folder")),
        }
    }

    fn end(&mut self, problem: String) {
        self.store = None;
        self.problems.push(problem);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;
    use burn::tensor::TensorData;
    use serde_json::json;

    use super::*;

    const SHAPE: [usize; 2] = [3, 5];

    /// Features that tell their example, moved by `offset`.
    fn encoded(indices: &[usize], offset: f32) -> Tensor<3> {
        let values: Vec<f32> =
            indices.iter().flat_map(|&i| (0..15).map(move |k| (i * 100 + k) as f32 + offset)).collect();
        Tensor::from_data(TensorData::new(values, [indices.len(), 3, 5]), &Device::flex())
    }

    fn features(cache: &FeatureCache, indices: &[usize], offset: f32) -> (Vec<f32>, bool) {
        let is_called = Cell::new(false);
        let found = cache.features(indices, &Device::flex(), || {
            is_called.set(true);
            Ok(encoded(indices, offset))
        });
        (to_host(found.unwrap()), is_called.get())
    }

    fn stores() -> Vec<(Store, Option<tempfile::TempDir>)> {
        let folder = tempfile::tempdir().unwrap();
        let (file, _) = FeatureFile::open(folder.path(), &json!({}), 7, 15).unwrap();
        vec![(Store::memory(7), None), (Store::Disk(file), Some(folder))]
    }

    #[test]
    fn a_batch_is_encoded_until_all_of_it_is_known_and_some_times_more_as_proof() {
        for (store, _folder) in stores() {
            let cache = FeatureCache::new(store, SHAPE, true);
            let is_encoded = |indices: [usize; 2]| {
                let (found, is_called) = features(&cache, &indices, 0.0);
                assert_eq!(found, to_host(encoded(&indices, 0.0)));
                is_called
            };
            assert!(is_encoded([0, 1]) && is_encoded([1, 2]));
            assert!((0..NUM_PROOFS).all(|n| is_encoded([n % 3, (n + 1) % 3])));
            assert!(!is_encoded([2, 0]) && !is_encoded([1, 1]));
            assert!(is_encoded([1, 5]), "one of it is new");
            assert!(cache.problems().is_empty());
        }
    }

    #[test]
    fn a_strict_cache_ends_at_the_first_bit_that_differs() {
        for (store, _folder) in stores() {
            let cache = FeatureCache::new(store, SHAPE, true);
            features(&cache, &[4, 5], 0.0);
            let (found, _) = features(&cache, &[5, 4], 1e-3);
            assert_eq!(found, to_host(encoded(&[5, 4], 1e-3)), "the encoder's, as without cache");
            assert!(cache.problems()[0].contains("depend on the batch"));
            assert!(features(&cache, &[4, 5], 0.0).1, "it has ended");
        }
    }

    #[test]
    fn a_tolerant_cache_accepts_rounding_and_nothing_else() {
        for (offset, is_kept) in [(1e-3, true), (5.0, false), (f32::NAN, false)] {
            let cache = FeatureCache::new(Store::memory(7), SHAPE, false);
            features(&cache, &[4, 5], 0.0);
            features(&cache, &[5, 4], offset);
            assert_eq!(cache.problems().len(), 1);
            assert_eq!(features(&cache, &[4, 5], 0.0).1, !is_kept, "offset {offset}");
        }
    }

    #[test]
    fn an_encoder_that_fails_leaves_nothing_behind() {
        let cache = FeatureCache::new(Store::memory(7), SHAPE, true);
        assert!(cache.features(&[1], &Device::flex(), || bail!("no")).is_err());
        assert!(features(&cache, &[1], 0.0).1 && cache.problems().is_empty());
    }
}
