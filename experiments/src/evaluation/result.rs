//! The file that an evaluation leaves: every number with every setting that made it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use realign::files::write_whole;
use realign::ops::Precision;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The layout of this file.
pub const SCHEMA: u32 = 1;

/// One evaluation: of a checkpoint of a run, or of pictures from elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was evaluated: a run folder, a folder or zip of pictures, or an `.npz`, as the user wrote it.
    pub source: String,
    /// Step of the checkpoint; none where pictures came from elsewhere.
    pub step: Option<u64>,
    /// Numbers by name. `fid`, `sfid`, `inception_score`, `precision` and `recall` are those of the published Inception
    /// network and `cmmd` that of the published CLIP; other networks carry their name: `fd_shapes_net`,
    /// `shapes_net_score`, `precision_shapes_net`, `recall_shapes_net`, `mmd_shapes_net`.
    pub metrics: BTreeMap<String, Measured>,
    /// What made the numbers.
    pub settings: EvaluationSettings,
}

/// One number and how sure it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The number; the mean over seeds where there are several.
    pub value: f64,
    /// With one seed the lower end of the 95 % bootstrap interval over the pictures, with several the lowest of them;
    /// none where neither was asked for.
    pub low: Option<f64>,
    /// The upper end, or the highest.
    pub high: Option<f64>,
    /// Which definition the number follows, for what may be compared: `adm`, `torch_fidelity`, `pytorch_fid`,
    /// `cmmd`, or the name of the network.
    pub convention: String,
    /// The number by seed, in the order of [`EvaluationSettings::seeds`].
    pub by_seed: Vec<f64>,
    /// Standard deviation over seeds (n − 1); none with one seed.
    pub spread: Option<f64>,
}

/// What made the numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Name and profile of the run's recipe: `sit-irepa`, `demo`.
    pub recipe: Option<[String; 2]>,
    /// Digest of the run's recipe.
    pub recipe_digest: Option<String>,
    /// The section `sample` as it was used: sampler and its steps, `cfg_scale`, guidance interval, `weights` (the
    /// moving average), label sampling and quantization.
    pub sample: Option<Value>,
    /// The section `autoencoder`.
    pub autoencoder: Option<Value>,
    /// `--set` of the command, in its order: what was changed in the run's recipe.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// The arithmetic of sampling; none where pictures came from elsewhere.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// Pictures evaluated, of each seed.
    pub num_samples: usize,
    /// Seeds of noise and labels; empty where pictures came from elsewhere.
    pub seeds: Vec<u64>,
    /// Height and width of the pictures, in pixels.
    pub picture_size: [usize; 2],
    /// The networks whose features were compared.
    pub features: Vec<NetworkUsed>,
    /// What the pictures were compared with.
    pub reference: ReferenceUsed,
    /// Draws of the bootstrap; 0 where there was none.
    pub bootstrap: usize,
    /// Version of realign.
    pub realign: String,
    /// Version of libtorch; none on other backends.
    pub libtorch: Option<String>,
    /// Where it was computed.
    pub device: String,
}

/// A network whose features were compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkUsed {
    /// Its section in the recipe: type and settings.
    pub network: Value,
    /// SHA-256 of its weights in hexadecimal digits.
    pub digest: String,
}

/// What pictures were compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceUsed {
    /// `data`, or the file or folder as the user wrote it.
    pub source: String,
    /// Digest of the file, or of the data set where it has one.
    pub digest: Option<String>,
    /// Pictures whose features were compared; none where the file holds statistics alone.
    pub num_images: Option<usize>,
}

impl Evaluation {
    /// Reads a file of evaluations.
    ///
    /// # Errors
    /// It is absent, or of another layout.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let found: Self =
            serde_json::from_str(&text).with_context(|| format!("`{}` is no evaluation", path.display()))?;
        ensure!(
            found.schema == SCHEMA,
            "`{}` has layout {}, and this program reads layout {SCHEMA}; evaluate again",
            path.display(),
            found.schema
        );
        Ok(found)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write the evaluation")? + "\n";
        write_whole(path, text.as_bytes())
    }
}

/// `RUN/eval/step-0001400.json` for what the run's recipe says, `RUN/eval/step-0001400-1a2b3c4d.json` for other
/// settings, whose digest the name carries.
pub fn result_path(run_dir: &Path, step: u64, other_settings: Option<&str>) -> PathBuf {
    let digest = other_settings.map(|digest| format!("-{digest}")).unwrap_or_default();
    run_dir.join("eval").join(format!("step-{step:07}{digest}.json"))
}
