//! Everything that is trained, as one module.

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;

use crate::erase::Slot;
use crate::nn::ParamBuilder;
use crate::plugin::{BackboneKind, ProjectorContext, ProjectorKind};
use crate::recipe::Plan;

/// The backbone and the projectors of all alignment terms, in order of terms and their encoders.
///
/// Parameter names are the official checkpoints': the backbone's own, and `projectors.<i>.…`.
#[derive(Module, Debug)]
pub struct TrainModel {
    /// The network.
    pub backbone: Slot<BackboneKind>,
    /// One projector for each encoder of each term.
    pub projectors: Vec<Slot<ProjectorKind>>,
}

/// Declares a plan's parameters; their values are made when first used, from the seed and their names.
///
/// # Errors
/// A plugin refuses the sizes.
pub fn build_model(plan: &Plan, device: &Device) -> Result<TrainModel> {
    let params = ParamBuilder::new(device, plan.recipe.seed);
    let backbone = plan.recipe.backbone.build(&plan.backbone_context(), &params).context("backbone")?;
    let mut projectors = vec![];
    for (term, encoders) in plan.recipe.alignment.iter().zip(&plan.encoders) {
        for encoder in encoders {
            let context = ProjectorContext {
                hidden_size: plan.backbone.hidden_size,
                target_channels: encoder.channels,
                grid: encoder.grid,
            };
            let params = params.child("projectors").child(projectors.len());
            projectors.push(Slot::new(term.projector.build(&context, &params).context("projector")?));
        }
    }
    Ok(TrainModel { backbone: Slot::new(backbone), projectors })
}
