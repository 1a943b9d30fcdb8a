//! `encoder`: any encoder as the network whose features are compared.

use anyhow::{Context, Result, ensure};
use realign::burn::tensor::{Device, Tensor};
use realign::erase::Slot;
use realign::eval::generation::Metric;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{
    EncoderConfig, EncoderContext, EncoderKind, FeatureContext, FeatureNetwork, FeatureNetworkConfig, NetworkOutput,
    PatchGrid,
};
use realign::recipe::Check;
use realign::serde_json;
use realign::weights::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `encoder`: the mean patch token, or the class token, of any encoder.
///
/// Its numbers carry the encoder's name, `fd_hog`, and compare runs that were measured with the same one.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderFeaturesConfig {
    /// The encoder, a section with its `type`; it has to be given.
    #[schemars(with = "Option<serde_json::Value>")]
    pub encoder: Option<Box<dyn EncoderConfig>>,
    /// What stands for a picture.
    pub pool: Pool,
    /// Rows and columns of tokens, for encoders that follow a backbone's grid on pictures below 256 pixels.
    #[schemars(range(min = 1, max = 256))]
    pub grid: usize,
}

/// What stands for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The mean of its patch tokens.
    #[default]
    Mean,
    /// Its class token.
    ClassToken,
}

impl Default for EncoderFeaturesConfig {
    fn default() -> Self {
        Self { encoder: None, pool: Pool::Mean, grid: 16 }
    }
}

const ABSENT: &str = "is missing; name the encoder whose features are compared, `encoder: {type: hog}`";

impl EncoderFeaturesConfig {
    fn context(&self, ctx: &FeatureContext) -> Result<EncoderContext> {
        let [height, width] = ctx.picture_size;
        ensure!(height == width, "feature network `encoder` takes square pictures; found {width} x {height} pixels");
        let backbone_grid = PatchGrid::new(self.grid, self.grid);
        Ok(EncoderContext { image_size: width, backbone_grid, weights_dir: ctx.weights_dir.clone() })
    }
}

#[typetag::serde(name = "encoder")]
impl FeatureNetworkConfig for EncoderFeaturesConfig {
    fn label(&self) -> String {
        let section = serde_json::to_value(&self.encoder).unwrap_or_default();
        let word = |key: &str| section[key].as_str();
        let name = word("preset").or(word("type")).unwrap_or("encoder");
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
        let random = if word("weights") == Some("random") { "_random" } else { "" };
        let class_token = if self.pool == Pool::ClassToken { "_class_token" } else { "" };
        name + random + class_token
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::FrechetDistance, Metric::Precision, Metric::Recall, Metric::Discrepancy]
    }

    fn weights(&self, ctx: &FeatureContext) -> Vec<WeightFile> {
        let spec = self.encoder.as_ref().and_then(|encoder| encoder.spec(&self.context(ctx).ok()?).ok());
        spec.map(|spec| spec.weights).unwrap_or_default() // what does not fit is reported when it is built
    }

    fn build(&self, ctx: &FeatureContext, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
        let config = self.encoder.as_ref().with_context(|| format!("encoder: {ABSENT}"))?;
        let encoder = config.build(&self.context(ctx)?, device).context("encoder")?;
        Ok(Box::new(EncoderFeatures { encoder: Slot::new(encoder), pool: self.pool, label: self.label() }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("grid", self.grid, 1, 256);
        match &self.encoder {
            Some(encoder) => check.within("encoder", |check| encoder.validate(check)),
            None => check.bad("encoder", ABSENT),
        }
    }
}

realign::register!(FeatureNetworkConfig as "feature_network": EncoderFeaturesConfig);

#[derive(Debug)]
struct EncoderFeatures {
    encoder: Slot<EncoderKind>,
    pool: Pool,
    label: String,
}

impl FeatureNetwork for EncoderFeatures {
    fn features(&self, images: Tensor<4>) -> Result<NetworkOutput> {
        let encoded = self.encoder.encode(images)?;
        let features = match self.pool {
            Pool::Mean => encoded.tokens.mean_dim(1).squeeze_dim::<2>(1),
            Pool::ClassToken => encoded
                .class_token
                .with_context(|| format!("encoder `{}` has no class token; take `pool: mean`", self.label))?,
        };
        Ok(NetworkOutput { features, spatial: None, logits: None })
    }

    fn digest(&self) -> String {
        digest(&self.encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::weights::to_host;

    fn config(text: &str) -> EncoderFeaturesConfig {
        realign::serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn numbers_carry_the_encoders_name() {
        assert_eq!(config("{encoder: {type: hog}}").metric_name(Metric::FrechetDistance), "fd_hog");
        let random = config("{encoder: {type: vit, weights: random}, pool: class_token}");
        assert_eq!(random.label(), "dinov2_vit_b_random_class_token"); // the default preset
        assert_eq!(config("{encoder: {type: vit, preset: dinov2-vit-b}}").label(), "dinov2_vit_b");
    }

    #[test]
    fn features_are_the_mean_of_the_tokens() {
        let device = Device::flex();
        let ctx = FeatureContext { picture_size: [20, 20], weights_dir: "w".into() };
        let config = config("{encoder: {type: hog}, grid: 5}");
        let network = config.build(&ctx, &device).unwrap();
        let image = Tensor::<1, realign::burn::tensor::Int>::arange(0..1200, &device).float().reshape([1, 3, 20, 20]);
        let found = network.features(image.clone()).unwrap().features;
        let tokens = config.encoder.unwrap().build(
            &EncoderContext { image_size: 20, backbone_grid: PatchGrid::new(5, 5), weights_dir: "w".into() },
            &device,
        );
        let expected = to_host(tokens.unwrap().encode(image).unwrap().tokens.mean_dim(1));
        assert_eq!(to_host(found), expected);
        assert_eq!(network.digest().len(), 64);
    }

    #[test]
    fn a_missing_encoder_a_missing_class_token_and_oblong_pictures_are_refused() {
        let ctx = |height| FeatureContext { picture_size: [height, 20], weights_dir: "w".into() };
        let refused = |config: EncoderFeaturesConfig, height| {
            let built = config.build(&ctx(height), &Device::flex());
            built.and_then(|network| network.features(Tensor::zeros([1, 3, 20, 20], &Device::flex()))).unwrap_err()
        };
        assert!(refused(EncoderFeaturesConfig::default(), 20).to_string().contains("encoder: is missing"));
        assert!(refused(config("{encoder: {type: hog}, grid: 5}"), 10).to_string().contains("20 x 10"));
        let message = refused(config("{encoder: {type: hog}, grid: 5, pool: class_token}"), 20).to_string();
        assert!(message.contains("no class token"), "{message}");
    }
}
