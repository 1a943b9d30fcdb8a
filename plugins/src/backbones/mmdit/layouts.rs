//! How checkpoints of MMDiT name their tensors.

use realign::weights::{CheckpointLayout, KeyMap};

/// `{model, ema}` of REPA's text-to-image training: our names, and projectors without a name of their own.
static REPA_T2I: CheckpointLayout = CheckpointLayout {
    name: "repa-t2i",
    about: "REPA's text-to-image MMDiT with MLP projectors",
    backbone: "mmdit",
    needs: &[],
    model: &["model."],
    averages: &[&["ema."]],
    inside: "",
    has_latent_norm: false,
    key_map: |_| {
        let names = KeyMap::new().strip(&["_orig_mod."]).strip(&["module."]);
        names.rename("projectors.*.projection_layer.**", "projectors.*.**")
    },
};

realign::publish_layouts!(REPA_T2I);
