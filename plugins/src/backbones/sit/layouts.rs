//! Published checkpoints of SiT networks, and how each project names their tensors.

use realign::weights::{CheckpointLayout, KeyMap, LayoutContext, PublishedWeights, WeightSource};

/// `{model, ema}` of willisma/SiT, or one of them alone. Its network predicts a variance too, which nobody uses.
static SIT: CheckpointLayout = CheckpointLayout {
    name: "sit",
    about: "the original SiT, whose time runs from noise to data",
    backbone: "sit",
    needs: &[("backbone.time_reversed", "true")],
    model: &["model."],
    averages: &[&["ema."]],
    inside: "",
    has_latent_norm: false,
    key_map: |ctx| {
        let mut map = plain(ctx);
        for name in ["final_layer.linear.weight", "final_layer.linear.bias"] {
            map = map.keep_rows(name, name, ctx.channels, 2 * ctx.channels);
        }
        map
    },
};

static REPA: CheckpointLayout = CheckpointLayout {
    name: "repa",
    about: "REPA, SiT with MLP projectors",
    needs: &[("backbone.time_reversed", "false")],
    key_map: repa,
    ..SIT
};

static REPA_E: CheckpointLayout = CheckpointLayout {
    name: "repa-e",
    about: "REPA-E, whose SiT holds the statistics of its latents",
    has_latent_norm: true,
    key_map: |ctx| repa(ctx).ignore(&["bn.*"]),
    ..REPA
};

static IREPA: CheckpointLayout =
    CheckpointLayout { name: "irepa", about: "iREPA, SiT with any projector", key_map: plain, ..REPA };

realign::publish_layouts!(SIT, REPA, REPA_E, IREPA);

/// Our names, behind what compiling and distributing add.
fn plain(_: &LayoutContext) -> KeyMap {
    KeyMap::new().strip(&["_orig_mod."]).strip(&["module."])
}

/// Projectors without a name of their own; early files count the blocks after the aligned one from zero.
fn repa(ctx: &LayoutContext) -> KeyMap {
    let mut map = plain(ctx).rename("projectors.*.projection_layer.**", "projectors.*.**");
    let aligned = ctx.encoder_depth.unwrap_or(8); // REPA's own
    for n in aligned..ctx.depth {
        map = map.rename(format!("blocks.{n}.**"), format!("blocks.{n}.**"));
        map = map.rename(format!("blocks.{n}.**"), format!("decoder_blocks.{}.**", n - aligned));
    }
    map
}

static SIT_XL_2: PublishedWeights = PublishedWeights {
    name: "sit-xl-2-256",
    file: "SiT-XL-2-256x256.pt",
    source: WeightSource::Url(
        "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0",
    ),
    layout: "sit",
    license: "MIT",
    gated: false,
    num_bytes: None,
    sha256: None,
    expects: None,
};

static REPA_XL_2: PublishedWeights = PublishedWeights {
    name: "repa-sit-xl-2-256",
    file: "REPA-SiT-XL-2-256x256.pt",
    source: WeightSource::Url(
        "https://www.dl.dropboxusercontent.com/scl/fi/cxedbs4da5ugjq5wg3zrg/last.pt?rlkey=8otgrdkno0nd89po3dpwngwcc&st=apcc645o&dl=0",
    ),
    layout: "repa",
    ..SIT_XL_2
};

realign::publish_weights!(SIT_XL_2, REPA_XL_2);
