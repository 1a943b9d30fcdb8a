//! Everything that is trained, as one module.

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;

use crate::erase::Slot;
use crate::nn::ParamBuilder;
use crate::plugin::{BackboneKind, ConditionerKind, ProjectorContext, ProjectorKind};
use crate::recipe::Plan;

/// The backbone, the projectors of all alignment terms in order of terms and their encoders, and a conditioner that
/// trains.
///
/// Parameter names are the official checkpoints': the backbone's own, `projectors.<i>.…`, and `conditioner.…`.
#[derive(Module, Debug)]
pub struct TrainModel {
    /// The network.
    pub backbone: Slot<BackboneKind>,
    /// One projector for each encoder of each term.
    pub projectors: Vec<Slot<ProjectorKind>>,
    /// The conditioner, where it trains with the network.
    pub conditioner: Option<Slot<ConditionerKind>>,
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
    let conditioner = match plan.recipe.conditioner.is_trained() {
        true => Some(build_conditioner(plan, &params)?),
        false => None,
    };
    Ok(TrainModel { backbone: Slot::new(backbone), projectors, conditioner })
}

/// The recipe's conditioner on the device of `params`.
pub(crate) fn build_conditioner(plan: &Plan, params: &ParamBuilder) -> Result<Slot<ConditionerKind>> {
    let params = params.child("conditioner");
    let conditioner = plan.recipe.conditioner.build(&plan.conditioner_context(), &params);
    Ok(Slot::new(conditioner.context("conditioner")?))
}
