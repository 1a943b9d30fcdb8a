//! How checkpoints of JiT name their tensors.

use realign::weights::{CheckpointLayout, KeyMap};

/// `{model, model_ema1, model_ema2}`, every name behind `net.`, with or without projectors.
static JIT: CheckpointLayout = CheckpointLayout {
    name: "jit",
    about: "JiT and iREPA's JiT, two averages",
    backbone: "jit",
    needs: &[],
    model: &["model."],
    averages: &[&["model_ema1."], &["model_ema2."]],
    inside: "net.",
    has_latent_norm: false,
    key_map: |_| KeyMap::new().strip(&["_orig_mod."]).strip(&["module."]).strip(&["net."]),
};

realign::publish_layouts!(JIT);
