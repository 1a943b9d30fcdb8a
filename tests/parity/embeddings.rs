//! Position table, time features, interpolants, unpatchify.

use anyhow::{Context, Result};
use burn::tensor::Device;
use realign::nn::{sincos_position_table, time_features, unpatchify};
use realign::plugin::{PatchGrid, ProbabilityPath};
use realign_plugins::objectives::flow_matching::FlowMatchingConfig;
use serde_json::Value;

use super::case::Case;
use super::verdict::Verdict;

pub fn compare(case: &Case, device: &Device) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for name in case.names("out.pos.") {
        let (channels, side) = name.split_once('x').context("out.pos.<channels>x<side>")?;
        let (channels, side): (usize, usize) = (channels.parse()?, side.parse()?);
        let table = sincos_position_table(PatchGrid::new(side, side), channels);
        let table: Vec<f64> = table.into_iter().map(f64::from).collect();
        verdict.values(case, &format!("out.pos.{name}"), &table)?;
    }
    for channels in case.names("out.time.") {
        let features = time_features(case.tensor("in.t", device)?, channels.parse()?);
        verdict.output(case, &format!("out.time.{channels}"), features)?;
    }
    for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
        let name = |what: &str| format!("out.{}.{what}", path.name());
        if case.has(&name("alpha")) {
            let point = path.at_each(case.tensor::<1>("in.t", device)?);
            verdict.output(case, &name("alpha"), point.alpha)?;
            verdict.output(case, &name("sigma"), point.sigma)?;
            verdict.output(case, &name("d_alpha"), point.d_alpha)?;
            verdict.output(case, &name("d_sigma"), point.d_sigma)?;
        }
        if case.has(&name("t_lognormal")) {
            let config = FlowMatchingConfig { path, ..Default::default() };
            let draws = case.values("in.rnd_normal")?;
            let times: Vec<f64> = draws.iter().map(|n| f64::from(config.lognormal_time(*n as f32))).collect();
            verdict.values(case, &name("t_lognormal"), &times)?;
        }
    }
    if case.has("out.unpatchify") {
        let shape = case.shape("out.unpatchify")?.to_vec();
        let patch = case.config["unpatchify"]["patch"].as_u64().and_then(|patch| usize::try_from(patch).ok());
        let patch = patch.filter(|patch| *patch > 0).context("config.unpatchify.patch")?;
        let grid = PatchGrid::new(shape[2] / patch, shape[3] / patch);
        verdict.output(case, "out.unpatchify", unpatchify(case.tensor("in.tokens", device)?, grid, patch))?;
    }
    let _: &Value = &case.sidecar;
    Ok(verdict)
}
