//! What a diffusion network makes of pictures inside: its tokens after chosen blocks.

use anyhow::Result;
use burn::tensor::Tensor;

use crate::ops;
use crate::plugin::{BackboneInput, Dynamics, Times};
use crate::recipe::Plan;
use crate::streams::Streams;
use crate::train::{Assembly, TrainModel};

/// Tokens after the blocks `taps` (ascending, counted from 1) for pictures of which a share `noise_level` is noise.
///
/// The network gets `alpha · x0 + sigma · noise` at that level (0 is data, 1 is noise) of its objective's path, the time
/// that belongs to it, and the null condition; both times of an interval are the same. The same `streams` give the same
/// noise. `model` carries no autodiff.
///
/// # Shapes
/// * `images`: `[batch, 3, height, width]`, RGB in 0..255
/// * result: `[batch, tokens, hidden_size]` each
///
/// # Errors
/// The tensor library fails.
pub fn tap_features(
    plan: &Plan,
    assembly: &Assembly,
    model: &TrainModel,
    images: Tensor<4>,
    taps: &[usize],
    noise_level: f64,
    streams: &Streams,
) -> Result<Vec<Tensor<3>>> {
    let features = || {
        let device = &assembly.device;
        let x0 = assembly.autoencoder.encode(images, streams);
        let shape @ [batch, ..] = x0.dims();
        let noise = assembly.objective.start(assembly.objective.draw(shape, streams, device).noise);
        let point = assembly.objective.path().at(noise_level);
        let is_reversed = plan.recipe.objective.dynamics().contains(&Dynamics::VelocityFromNoise);
        let time = if is_reversed { 1.0 - noise_level } else { noise_level };
        let t = Tensor::<1>::full([batch], time, device);
        let r = plan.recipe.objective.has_interval().then(|| t.clone());
        let input = BackboneInput {
            x: x0 * point.alpha + noise * point.sigma,
            times: Times { t, r },
            condition: assembly.conditioner(model).null(batch, device),
            taps,
        };
        Ok(model.backbone.forward(input).taps)
    };
    assembly.precision.scope(|| ops::guard(features))
}
