//! What a recipe says of a vision transformer.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::nn::{ParamBuilder, Resampling};
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, EncoderSpec, PatchGrid};
use realign::recipe::Check;
use realign::registry::nearest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::super::network_input::token_grid;
use super::super::weight_choice::{WeightChoice, random_note};
use super::architecture::{Activation, Architecture, Positions, QkvBias, Rotary};
use super::encoder::Vit;
use super::layouts;
use super::mixing::ClsMixing;
use super::network::VisionTransformer;
use super::preprocess::{Normalization, Preprocessing};
use super::presets::{Preset, presets};

const SIZES: [&str; 5] = ["hidden_size", "depth", "num_heads", "patch_size", "mlp_size"];

/// `vit`: a frozen vision transformer, by the name of its preset or with all sizes given.
///
/// `preset: null` takes nothing from a table; any further key overrides the preset's. `docs/encoders.md` lists the
/// presets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VitConfig {
    /// A published encoder; null when all sizes are given.
    pub preset: PresetName,
    /// File of weights; the preset's file in `weights_dir` when left out. `random` draws them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightChoice>,
    /// Seed of `weights: random`; 0 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The block whose tokens are returned, counted from 1; the last one when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Whether returned tokens pass the last LayerNorm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<bool>,
    /// How the class token is mixed into the patches; not at all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cls_mixing: Option<ClsMixing>,
    /// Mean and deviation of the colors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Whether colors are normalized before the resize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize_first: Option<bool>,
    /// How pictures get the network's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resampling>,
    /// Channels of the tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Number of blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Attention heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_heads: Option<usize>,
    /// Side of a patch, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Hidden width of a block's MLP; of one of both parts with `swi_glu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_size: Option<usize>,
    /// Activation of the MLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Whether a trained class token comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_token: Option<bool>,
    /// Trained tokens between the class token and the patches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_registers: Option<usize>,
    /// What is done with the table of trained positions on another grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
    /// Side of the table of positions in the weight file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_grid: Option<usize>,
    /// Rotation of queries and keys by their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary: Option<Rotary>,
    /// Whether the patch embedding has a bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_bias: Option<bool>,
    /// Biases of queries, keys and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qkv_bias: Option<QkvBias>,
    /// Whether a LayerNorm comes before the first block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_norm: Option<bool>,
    /// Whether both branches of a block are scaled per channel before they are added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<bool>,
    /// Term beside the variance in every LayerNorm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
    /// Whether the weight file brings mean and deviation of the pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_conditioner: Option<bool>,
}

/// Name of a preset, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PresetName(pub Option<String>);

impl Default for PresetName {
    fn default() -> Self {
        Self(Some("dinov2-vit-b".into()))
    }
}

/// A config with its preset's values, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Sizes and variants of the network.
    pub architecture: Architecture,
    /// From pictures to pixels.
    pub preprocessing: Preprocessing,
    /// How the class token is mixed into the patches.
    pub cls_mixing: Option<ClsMixing>,
    /// Blocks that are evaluated.
    pub num_blocks: usize,
}

impl VitConfig {
    /// The config of a preset.
    pub fn preset(name: &str) -> Self {
        Self { preset: PresetName(Some(name.into())), ..Self::default() }
    }

    /// The preset's values, overridden by the recipe's.
    ///
    /// # Errors
    /// An unknown preset, a missing size, or values that do not fit together; the message begins with the key.
    pub fn settings(&self) -> Result<Settings> {
        let mut all = self.published()?.map(|preset| preset.settings.clone()).unwrap_or_default();
        if let Value::Mapping(own) = serde_yaml::to_value(self).context("cannot write the settings")? {
            all.extend(own);
        }
        if let Some(key) = SIZES.into_iter().find(|key| !all.contains_key(key)) {
            bail!("`{key}` is missing; give it, or a `preset`");
        }
        let architecture: Architecture = read(&all)?;
        let settings = Settings {
            architecture,
            preprocessing: read(&all)?,
            cls_mixing: all.get("cls_mixing").map(|value| serde_yaml::from_value(value.clone())).transpose()?,
            num_blocks: self.layer.unwrap_or(architecture.depth),
        };
        settings.check()?;
        Ok(settings)
    }

    /// The network alone, with its weights, for pictures of `grid` patches.
    ///
    /// # Errors
    /// As [`settings`](Self::settings), and a missing or unfit weight file.
    pub fn network(&self, grid: PatchGrid, weights_dir: &Path, device: &Device) -> Result<VisionTransformer> {
        let Settings { architecture, num_blocks, .. } = self.settings()?;
        let params = ParamBuilder::new(device, self.seed.unwrap_or(0));
        let network = VisionTransformer::new(&architecture, num_blocks, &params);
        let network = match self.file(weights_dir)? {
            Some(file) => layouts::load(network, &file.path, &architecture)?,
            None => network,
        };
        Ok(network.on_grid(&architecture, grid))
    }

    fn published(&self) -> Result<Option<&'static Preset>> {
        let Some(name) = &self.preset.0 else { return Ok(None) };
        let found = Preset::find(name);
        if found.is_none() {
            let names = presets().iter().map(|preset| preset.name.as_str());
            let hint = nearest(name, names.clone()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("preset: unknown preset `{name}`{hint} (known: {})", names.collect::<Vec<_>>().join(", "));
        }
        Ok(found)
    }

    /// The file of weights, or none where they are drawn.
    fn file(&self, weights_dir: &Path) -> Result<Option<WeightFile>> {
        let preset = self.published()?;
        let path = match (&self.weights, preset) {
            (Some(WeightChoice::Random), _) => return Ok(None),
            (Some(WeightChoice::File(path)), _) => path.clone(),
            (None, Some(preset)) => weights_dir.join(preset.file()),
            (None, None) => bail!("`weights` is missing; give a file, `random`, or a `preset`"),
        };
        let command = match preset {
            Some(preset) => preset.published().command(&path),
            None => format!("cp YOUR_FILE {}", path.display()),
        };
        Ok(Some(WeightFile { path, command }))
    }
}

fn read<T: for<'de> Deserialize<'de>>(all: &Mapping) -> Result<T> {
    serde_yaml::from_value(Value::Mapping(all.clone())).context("settings")
}

impl Settings {
    fn check(&self) -> Result<()> {
        self.architecture.check()?;
        let depth = self.architecture.depth;
        ensure!(
            (1..=depth).contains(&self.num_blocks),
            "layer: `{}` is out of range; allowed is 1 to {depth}",
            self.num_blocks
        );
        if let Some(ClsMixing { alpha, .. }) = self.cls_mixing {
            ensure!((0.0..=1.0).contains(&alpha), "cls_mixing.alpha: `{alpha}` is out of range; allowed is 0 to 1");
            ensure!(self.architecture.class_token, "cls_mixing: this encoder has no class token to mix in");
        }
        Ok(())
    }

    /// Grid of the tokens: one for 16 pixels, as in the published code; below 256 pixels the backbone's.
    fn grid(&self, ctx: &EncoderContext) -> Result<PatchGrid> {
        let grid = token_grid("vit", ctx)?;
        ensure!((1..=1 << 16).contains(&grid.tokens()), "encoder `vit`: a grid of {grid} is out of range");
        self.architecture.check_grid(grid).context("encoder `vit`")?;
        Ok(grid)
    }

    /// Height and width of the network's pictures.
    fn input(&self, grid: PatchGrid) -> [usize; 2] {
        [grid.rows, grid.columns].map(|count| count * self.architecture.patch_size)
    }
}

#[typetag::serde(name = "vit")]
impl EncoderConfig for VitConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        let settings = self.settings()?;
        Ok(EncoderSpec {
            grid: settings.grid(ctx)?,
            channels: settings.architecture.hidden_size,
            weights: self.file(&ctx.weights_dir)?.into_iter().collect(),
        })
    }

    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        let settings = self.settings()?;
        let grid = settings.grid(ctx)?;
        Ok(Box::new(Vit {
            network: self.network(grid, &ctx.weights_dir, device).context("encoder `vit`")?,
            preprocessing: settings.preprocessing,
            input: settings.input(grid),
            has_class_token: settings.architecture.class_token,
            cls_mixing: settings.cls_mixing,
        }))
    }

    fn notes(&self, ctx: &EncoderContext) -> Result<Vec<String>> {
        let settings = self.settings()?;
        let (grid, architecture) = (settings.grid(ctx)?, settings.architecture);
        let [height, width] = settings.input(grid);
        let follows = if ctx.image_size < 256 { ", patches times the backbone's grid" } else { "" };
        let mut notes = vec![
            format!("pictures of {0}x{0} become {height}x{width} pixels{follows}", ctx.image_size),
            format!(
                "{} parameters, block {} of {}",
                architecture.num_parameters(),
                settings.num_blocks,
                architecture.depth
            ),
        ];
        notes.extend(random_note(self.weights.as_ref(), self.seed.unwrap_or(0)));
        Ok(notes)
    }

    fn validate(&self, check: &mut Check<'_>) {
        if let Err(problem) = self.settings() {
            check.record(&problem);
        }
    }
}

realign::register!(EncoderConfig as "encoder": VitConfig);
