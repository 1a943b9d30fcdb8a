//! Published checkpoints of SiT networks, and how each project names their tensors.

use realign::weights::{CheckpointLayout, KeyMap, LayoutContext, PublishedWeights};

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

/// The networks of both projects at their largest.
fn published() -> Vec<PublishedWeights> {
    let drop = "https://www.dl.dropboxusercontent.com/scl/fi";
    let sit = format!("{drop}/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0");
    let repa = format!("{drop}/cxedbs4da5ugjq5wg3zrg/last.pt?rlkey=8otgrdkno0nd89po3dpwngwcc&st=apcc645o&dl=0");
    vec![
        PublishedWeights::new("sit-xl-2-256", "SiT-XL-2-256x256.pt", &sit, "sit", "MIT"),
        PublishedWeights::new("repa-sit-xl-2-256", "REPA-SiT-XL-2-256x256.pt", &repa, "repa", "MIT"),
    ]
}

realign::publish_weights!(published);

#[cfg(test)]
mod tests {
    use super::super::SiTConfig;
    use super::*;
    use realign::burn::tensor::{Device, Tensor, TensorData};
    use realign::erase::Slot;
    use realign::nn::ParamBuilder;
    use realign::plugin::{
        BackboneConfig, BackboneContext, BackboneInput, BackboneKind, Condition, ConditionSpec, Times,
    };
    use realign::weights::{TensorFile, find_layout, load_state_dict, parameters, read_weights, to_host};
    use std::path::PathBuf;

    fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/weights").join(name)
    }

    #[test]
    fn a_network_of_the_original_code_computes_here_what_it_computes_there() {
        let (device, recorded) = (Device::flex(), read_weights(&fixture("sit-original.safetensors")).unwrap());
        let sizes = SiTConfig { size: None, hidden_size: Some(12), depth: Some(2), ..Default::default() };
        let config = SiTConfig { num_heads: Some(3), patch_size: Some(2), time_reversed: true, ..sizes };
        let condition = ConditionSpec::Labels { num_classes: 5 };
        let ctx = BackboneContext { input: [3, 6, 6], condition, has_interval: false, recomputes: false };
        let network = Slot::<BackboneKind>::new(config.build(&ctx, &ParamBuilder::new(&device, 1)).unwrap());
        let layout = find_layout("sit").unwrap();
        let map = (layout.key_map)(&LayoutContext { channels: 3, depth: 2, encoder_depth: None }).strip(&["ema."]);
        let file = TensorFile::open(&fixture("sit-original.pt")).unwrap();
        let network = load_state_dict(network.clone(), map.take(&file, &parameters(&network)).unwrap()).unwrap();
        let tensor = |name: &str| TensorData::new(recorded[name].values.clone(), recorded[name].shape.clone());
        let t = Tensor::<1>::from_data(tensor("t"), &device);
        let labels: Vec<i64> = recorded["y"].values.iter().map(|label| *label as i64).collect();
        let input = BackboneInput {
            x: Tensor::from_data(tensor("x"), &device),
            times: Times::at(1.0 - t), // their time runs from noise to data
            condition: Condition::labels(&labels, &device),
            taps: &[],
        };
        let velocity = to_host(network.forward(input).prediction);
        for (ours, theirs) in velocity.iter().zip(&recorded["velocity"].values) {
            assert!((ours + theirs).abs() < 1e-4 * (1.0 + theirs.abs()), "{ours} and {theirs}"); // f32 sums
        }
    }
}
