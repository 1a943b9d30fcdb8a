//! Statistics of 2048 features and the distance between them, on features of `tests/python/generation_metrics.py
//! statistics`, which compares value and time with numpy and scipy. Runs when that asks for it.

use std::path::Path;
use std::time::Instant;

use realign::eval::generation::{FeatureTable, frechet_distance, gaussian};

const DIM: usize = 2048;

/// Features of a file: numbers of 32 bits, lowest byte first.
fn table(path: &Path) -> FeatureTable {
    let bytes = std::fs::read(path).unwrap();
    let values = bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect();
    FeatureTable::new(values, DIM).unwrap()
}

#[test]
fn statistics_and_the_distance_of_2048_features_are_timed() {
    let Some(folder) = std::env::var_os("REALIGN_FEATURES") else {
        realign_tests::say_skipped("`python tests/python/generation_metrics.py statistics` times it");
        return;
    };
    let tables = ["a.f32", "b.f32"].map(|name| table(&Path::new(&folder).join(name)));
    let start = Instant::now();
    let [one, other] = tables.each_ref().map(|table| gaussian(table, None).unwrap());
    let statistics = start.elapsed().as_secs_f64();
    let distance = frechet_distance(&one, &other).unwrap();
    let root = start.elapsed().as_secs_f64() - statistics;
    println!("{{\"statistics_s\": {statistics}, \"root_s\": {root}, \"distance\": {distance}}}");
    assert!((frechet_distance(&other, &one).unwrap() / distance - 1.0).abs() < 1e-9);
}
