//! The network with its preprocessing, as an encoder.

use anyhow::{Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::Tensor;
use realign::plugin::{Encoder, Features};

use super::mixing::ClsMixing;
use super::network::{Tokens, VisionTransformer};
use super::preprocess::Preprocessing;

/// A frozen vision transformer from pictures to tokens. Computes in f32.
#[derive(Module, Debug)]
pub struct Vit {
    /// The network, on the run's grid.
    pub network: VisionTransformer,
    #[module(skip)]
    pub(super) preprocessing: Preprocessing,
    pub(super) input: [usize; 2],
    pub(super) has_class_token: bool,
    #[module(skip)]
    pub(super) cls_mixing: Option<ClsMixing>,
}

impl Encoder for Vit {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [_, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "encoder `vit`: found pictures of shape `{:?}`; they must be RGB, `[batch, 3, height, width]`",
            images.dims()
        );
        let Tokens { prefix, patches } = self.network.forward(self.preprocessing.apply(images, self.input));
        let class_token =
            prefix.filter(|_| self.has_class_token).map(|prefix| prefix.narrow(1, 0, 1).squeeze_dim::<2>(1));
        let tokens = match (self.cls_mixing, &class_token) {
            (Some(mixing), Some(class_token)) => mixing.mix(patches, class_token.clone()),
            _ => patches,
        };
        Ok(Features { tokens, class_token })
    }
}

#[cfg(test)]
mod tests {
    use realign::burn::tensor::{Device, TensorData};
    use realign::plugin::{EncoderConfig, EncoderContext, PatchGrid};
    use realign::streams::Streams;
    use realign::weights::to_host;
    use serde_json::{Value, json};

    use super::super::VitConfig;
    use super::*;

    /// A small network with random weights, with further keys.
    fn config(keys: Value) -> VitConfig {
        let mut all = json!({
            "preset": null, "weights": "random", "hidden_size": 12, "depth": 3, "num_heads": 3, "patch_size": 5,
            "mlp_size": 7, "position_grid": 4,
        });
        all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn context(image_size: usize, rows: usize, columns: usize) -> EncoderContext {
        EncoderContext { image_size, backbone_grid: PatchGrid::new(rows, columns), weights_dir: "absent".into() }
    }

    fn pictures(side: usize) -> Tensor<4> {
        let values = Streams::new(3).uniform("pictures", 2 * 3 * side * side);
        Tensor::from_data(TensorData::new(values, [2, 3, side, side]), &Device::flex()) * 255.0
    }

    fn features(config: &VitConfig) -> Features {
        let encoder = config.build(&context(33, 3, 2), &Device::flex()).unwrap();
        encoder.encode(pictures(33)).unwrap()
    }

    fn tokens(config: &VitConfig) -> Vec<f32> {
        to_host(features(config).tokens)
    }

    #[test]
    fn below_256_pixels_the_grid_is_the_backbones_and_from_there_on_one_token_for_16_pixels() {
        let vit = VitConfig::preset("dinov2-vit-b");
        for (size, grid) in [(64, [5, 7]), (255, [5, 7]), (256, [16, 16]), (512, [32, 32])] {
            let spec = vit.spec(&context(size, 5, 7)).unwrap();
            assert_eq!((spec.grid, spec.channels), (PatchGrid::new(grid[0], grid[1]), 768));
        }
        let notes = vit.notes(&context(64, 5, 7)).unwrap();
        assert!(notes[0].contains("70x98 pixels, patches times the backbone's grid"), "{notes:?}");
        assert!(vit.notes(&context(512, 32, 32)).unwrap()[0].ends_with("become 448x448 pixels"));
        assert!(vit.spec(&context(300, 5, 7)).unwrap_err().to_string().contains("no multiple of 16"));
    }

    #[test]
    fn a_fixed_table_refuses_another_grid_and_says_what_resamples_it() {
        let message = format!("{:#}", VitConfig::preset("siglip-vit-b").spec(&context(512, 32, 32)).unwrap_err());
        assert!(message.contains("16x16") && message.contains("positions: bicubic"), "{message}");
    }

    #[test]
    fn features_lie_on_the_grid_and_the_class_token_stands_apart() {
        let found = features(&config(json!({"num_registers": 2})));
        assert_eq!((found.tokens.dims(), found.class_token.unwrap().dims()), ([2, 6, 12], [2, 12]));
        assert!(features(&config(json!({"class_token": false, "num_registers": 2}))).class_token.is_none());
        let encoder = config(json!({})).build(&context(33, 3, 2), &Device::flex()).unwrap();
        assert!(encoder.encode(Tensor::zeros([1, 1, 33, 33], &Device::flex())).is_err());
    }

    #[test]
    fn random_weights_depend_on_the_seed_alone_and_are_labeled() {
        let random = config(json!({}));
        assert_eq!(tokens(&random), tokens(&random));
        assert_ne!(tokens(&random), tokens(&config(json!({"seed": 1}))));
        let notes = random.notes(&context(33, 3, 2)).unwrap().join("\n");
        assert!(notes.contains("RANDOM WEIGHTS, drawn with seed 0"), "{notes}");
        assert!(random.spec(&context(33, 3, 2)).unwrap().weights.is_empty());
    }

    #[test]
    fn an_earlier_layer_is_the_end_of_a_shorter_network() {
        assert_eq!(tokens(&config(json!({"layer": 2}))), tokens(&config(json!({"depth": 2}))));
        assert_ne!(tokens(&config(json!({"layer": 2}))), tokens(&config(json!({"layer": 3}))));
        assert_ne!(tokens(&config(json!({"layer": 2}))), tokens(&config(json!({"layer": 2, "norm": false}))));
        let message = config(json!({"layer": 4})).settings().unwrap_err().to_string();
        assert_eq!(message, "layer: `4` is out of range; allowed is 1 to 3");
    }

    #[test]
    fn the_class_token_is_mixed_in_where_the_recipe_says_so() {
        let plain = features(&config(json!({})));
        let mixed = features(&config(json!({"cls_mixing": {"mode": "additive", "alpha": 0.5}})));
        let expected = plain.tokens + plain.class_token.unwrap().unsqueeze_dim::<3>(1) * 0.5;
        let gap = (mixed.tokens - expected).abs().max().into_scalar::<f32>();
        assert!(gap < 1e-6, "{gap}");
        let message = config(json!({"class_token": false, "cls_mixing": {"mode": "convex", "alpha": 0.1}}));
        assert!(message.settings().unwrap_err().to_string().starts_with("cls_mixing: "));
    }

    #[test]
    fn what_cannot_work_is_refused_at_its_key() {
        let message = |keys: Value| format!("{:#}", config(keys).settings().unwrap_err());
        assert!(message(json!({"preset": "dinov2-vit-bb"})).contains("did you mean `dinov2-vit-b`?"));
        assert!(message(json!({"num_heads": 5})).starts_with("num_heads: "));
        assert!(message(json!({"rotary": "dinov3", "num_heads": 2})).starts_with("rotary: "));
        assert!(message(json!({"norm_eps": 0.0})).starts_with("norm_eps: "));
        let mut without = serde_json::to_value(config(json!({}))).unwrap();
        without.as_object_mut().unwrap().remove("mlp_size");
        let without: VitConfig = serde_json::from_value(without).unwrap();
        assert!(without.settings().unwrap_err().to_string().contains("`mlp_size` is missing"));
        let unread = VitConfig { weights: None, ..config(json!({})) };
        assert!(unread.spec(&context(33, 3, 2)).unwrap_err().to_string().contains("`weights` is missing"));
    }
}
