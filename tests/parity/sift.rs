//! Dense SIFT descriptors, kornia's and OpenCV's.

use super::case::{Case, count};
use super::compare::{Comparison, widen};
use anyhow::Result;
use realign::burn::tensor::Device;
use realign::plugin::{EncoderConfig, EncoderContext, PatchGrid};
use realign::weights::to_host;
use realign_plugins::encoders::sift::kornia::{Frame, Picture, Rules};
use serde_json::json;
use std::path::PathBuf;

const STEP: usize = 16; // pixels, at every resolution of the reference
/// Share of the tokens whose two strongest directions may be nearly equal, from the cases' descriptions.
const AMBIGUOUS_TOKENS: f64 = 0.02;
/// Tolerance of descriptors that are not turned, from the cases' descriptions.
const UPRIGHT_ATOL: f64 = 1e-3;
/// Share of OpenCV's values that may be off by more than the tolerance, from the cases' descriptions.
const OFF_BYTES: f64 = 0.005;

/// Descriptors with and without their turn, and the frames and patches between.
pub fn kornia(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for (i, item) in case.config.list("items").iter().enumerate() {
        let resolution = count(&item["resolution"])?;
        let descriptors = encode(case, i, resolution, version(case), false, device)?;
        let [_, tokens, channels] = case.shape::<3>(&format!("out.{i}.patch"))?;
        found.groups(case, &format!("out.{i}.patch"), &descriptors, channels, AMBIGUOUS_TOKENS)?;
        if case.has(&format!("out.{i}.patch_upright")) {
            let upright = encode(case, i, resolution, version(case), true, device)?;
            found.values_within(case, &format!("out.{i}.patch_upright"), &upright, |_| (0.0, UPRIGHT_ATOL))?;
        }
        let [batch, _, height, width] = case.shape::<4>(&format!("in.{i}.raw"))?;
        let pixels: Vec<f32> =
            case.recorded(&format!("in.{i}.raw"))?.values.iter().map(|value| *value as f32).collect();
        let rules = if is_old(case) { Rules::V08 } else { Rules::V09 };
        let pictures = pixels.chunks_exact(3 * height * width);
        let pictures: Vec<_> = pictures.map(|planes| Picture::new(rules, planes, height, width, resolution)).collect();
        let frame = |token: usize| {
            let (columns, at) = (resolution.div_ceil(STEP), token % tokens);
            let center = |at: usize| (at * STEP + STEP / 2) as f32;
            let upright = Frame { x: center(at % columns), y: center(at / columns), scale: STEP as f32, angle: 0.0 };
            upright.oriented(&pictures[token / tokens])
        };
        if case.has(&format!("out.{i}.lafs")) {
            let frames: Vec<f32> = (0..batch * tokens).flat_map(|token| frame(token).affine()).collect();
            found.groups(case, &format!("out.{i}.lafs"), &widen(frames), 6, AMBIGUOUS_TOKENS)?;
        }
        if let Ok([shown, side, _]) = case.shape::<3>(&format!("out.{i}.patches0")) {
            let upright = |token: usize| Frame { angle: 0.0, ..frame(token) };
            let patches: Vec<f32> = (0..shown).flat_map(|token| pictures[0].patch(&upright(token), side)).collect();
            found.values(case, &format!("out.{i}.patches0"), &widen(patches))?;
        }
    }
    Ok(())
}

fn is_old(case: &Case) -> bool {
    let version = case.config.word("kornia", "0.9");
    ["0.6.", "0.7.", "0.8."].iter().any(|old| version.starts_with(old))
}

fn version(case: &Case) -> &'static str {
    if is_old(case) { "kornia_0.8" } else { "kornia_0.9" }
}

/// Whole numbers in 0..255.
pub fn opencv(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for (i, item) in case.config.list("items").iter().enumerate() {
        let descriptors = encode(case, i, count(&item["resolution"])?, "opencv", false, device)?;
        found.groups(case, &format!("out.{i}.patch"), &descriptors, 1, OFF_BYTES)?;
    }
    Ok(())
}

fn encode(
    case: &Case,
    item: usize,
    resolution: usize,
    variant: &str,
    upright: bool,
    device: &Device,
) -> Result<Vec<f64>> {
    let config = json!({ "type": "sift", "variant": variant, "step": STEP, "upright": upright });
    let config: Box<dyn EncoderConfig> = serde_json::from_value(config)?;
    let backbone_grid = PatchGrid::new(resolution.div_ceil(STEP), resolution.div_ceil(STEP));
    let context = EncoderContext { image_size: resolution, backbone_grid, weights_dir: PathBuf::new() };
    let images = case.tensor::<4>(&format!("in.{item}.raw"), device)?;
    let tokens = config.build(&context, device)?.encode(images)?.tokens;
    let shape = case.shape::<3>(&format!("out.{item}.patch"))?;
    anyhow::ensure!(tokens.dims() == shape, "tokens are {:?}, recorded {shape:?}", tokens.dims());
    Ok(widen(to_host(tokens)))
}
