//! Metrics of generated pictures, of recorded features, probabilities and embeddings.

use super::case::Case;
use super::compare::Comparison;
use anyhow::{Context, Result, bail};
use realign::burn::tensor::Device;
use realign::eval::correlation;
use realign::eval::generation::{
    ClassProbabilities, FeatureTable, Moments, PrecisionRecall, ScoreParts, discrepancy, frechet_distance, manifold,
};

/// Every `out.*`. Precision, recall and radii are of the first channels of the features, 8 where `config` states no
/// number (`pr_dim`), with 3 neighbors where it states none (`k`).
pub fn generation(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let channels = case.config.number("pr_dim", 8.0) as usize;
    let neighbors = case.config.number("k", 3.0) as usize;
    let manifolds = || -> Result<[FeatureTable; 2]> {
        Ok([first_channels(case, "in.sample", channels)?, first_channels(case, "in.ref", channels)?])
    };
    for name in case.names("out.") {
        let values = match name {
            "fid" => vec![distance(case, "in.sample", "in.ref")?],
            "fid_singular" => vec![distance(case, "in.sample_small", "in.ref_small")?],
            "mu_ref" => moments(case, "in.ref")?.gaussian()?.mean,
            "sigma_ref" => moments(case, "in.ref")?.gaussian()?.covariance_rows(),
            "mu_sample" => moments(case, "in.sample")?.gaussian()?.mean,
            "sigma_sample" => moments(case, "in.sample")?.gaussian()?.covariance_rows(),
            "precision" | "recall" => {
                let [samples, reference] = manifolds()?;
                let both = PrecisionRecall::new(&samples, &reference, neighbors, device)?;
                let flags = if name == "precision" { both.precise } else { both.recalled };
                vec![flags.iter().filter(|flag| **flag).count() as f64 / flags.len() as f64]
            }
            "radii_ref" => manifold::radii(&manifolds()?[1], neighbors, device)?,
            "radii_sample" => manifold::radii(&manifolds()?[0], neighbors, device)?,
            "cmmd" | "cmmd_raw" => {
                let [x, y] = [table(case, "in.emb_x")?, table(case, "in.emb_y")?];
                vec![discrepancy(&x, &y, name == "cmmd", device)?.value]
            }
            "pearson_r" | "pearson_p" => {
                let of = |name: &str| Ok::<_, anyhow::Error>(case.recorded(name)?.values.clone());
                let points: Vec<_> = of("in.pearson_a")?.into_iter().zip(of("in.pearson_b")?).collect();
                let line = correlation(&points).context("no correlation")?;
                vec![if name == "pearson_r" { line.r } else { two_sided(line.r, line.count) }]
            }
            name => match name.strip_prefix("is_split").and_then(|size| size.parse().ok()) {
                Some(size) => vec![probabilities(case)?.score(ScoreParts::Size(size))?],
                None => bail!("`out.{name}` is no known result"),
            },
        };
        found.values(case, &format!("out.{name}"), &values)?;
    }
    Ok(())
}

fn table(case: &Case, name: &str) -> Result<FeatureTable> {
    let [_, dim] = case.shape::<2>(name)?;
    FeatureTable::new(case.recorded(name)?.values.iter().map(|value| *value as f32).collect(), dim)
}

fn first_channels(case: &Case, name: &str, channels: usize) -> Result<FeatureTable> {
    let table = table(case, name)?;
    let channels = channels.min(table.dim());
    FeatureTable::new(table.values().chunks(table.dim()).flat_map(|row| row[..channels].to_vec()).collect(), channels)
}

fn moments(case: &Case, name: &str) -> Result<Moments> {
    let table = table(case, name)?;
    let mut moments = Moments::new(table.dim());
    moments.add(table.values(), None);
    Ok(moments)
}

fn distance(case: &Case, samples: &str, reference: &str) -> Result<f64> {
    frechet_distance(&moments(case, samples)?.gaussian()?, &moments(case, reference)?.gaussian()?)
}

fn probabilities(case: &Case) -> Result<ClassProbabilities> {
    let [_, classes] = case.shape::<2>("in.probs")?;
    ClassProbabilities::new(case.recorded("in.probs")?.values.clone(), classes)
}

/// Probability that |r| of `count` unrelated pairs is at least this large: the area under the density of r, which is
/// proportional to `(1 − r²)^((count − 4) / 2)`.
fn two_sided(r: f64, count: usize) -> f64 {
    const STEPS: usize = 200_000;
    let area = |from: f64, to: f64| {
        let width = (to - from) / STEPS as f64;
        let at = |i: usize| (1.0 - (from + (i as f64 + 0.5) * width).powi(2)).powf((count as f64 - 4.0) / 2.0);
        (0..STEPS).map(at).sum::<f64>() * width
    };
    area(r.abs(), 1.0) / area(0.0, 1.0)
}
