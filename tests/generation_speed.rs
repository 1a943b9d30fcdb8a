//! How long statistics of 2048 features take, beside `tests/python/generation_metrics.py speed`. Runs when asked for.

use std::time::Instant;

use realign::eval::generation::{FeatureTable, frechet_distance, gaussian};
use realign::streams::Streams;

const DIM: usize = 2048;
const ROWS: usize = 10_000;

#[test]
fn statistics_and_the_root_of_2048_features_are_timed() {
    if std::env::var_os("REALIGN_SPEED").is_none() {
        println!("skipped: set REALIGN_SPEED=1 to time statistics of {DIM} features");
        return;
    }
    let rows = |seed| FeatureTable::new(Streams::new(seed).normal("features", ROWS * DIM), DIM).unwrap();
    let tables = [rows(1), rows(2)];
    let start = Instant::now();
    let [one, other] = tables.each_ref().map(|table| gaussian(table, None).unwrap());
    let statistics = start.elapsed().as_secs_f64();
    let distance = frechet_distance(&one, &other).unwrap();
    let root = start.elapsed().as_secs_f64() - statistics;
    println!("statistics {statistics:.2} s, root {root:.2} s, distance {distance:.4}");
    // Two samples of one distribution: what is left is the bias of their number.
    assert!(distance > 0.0 && distance < DIM as f64);
}
