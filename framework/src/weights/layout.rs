//! Layouts of whole training checkpoints that others publish.

use anyhow::{Result, bail, ensure};

use super::KeyMap;
use crate::recipe::Plan;
use crate::registry::{inventory, nearest};

/// How a project lays out the checkpoints of its generator, so that `import` and `export` can exchange them.
///
/// A backbone plugin submits those of its network with [`publish_layouts!`](crate::publish_layouts).
#[derive(Debug)]
pub struct CheckpointLayout {
    /// Name for the command line: `repa`.
    pub name: &'static str,
    /// Whose files these are.
    pub about: &'static str,
    /// Name of the backbone plugin.
    pub backbone: &'static str,
    /// Recipe keys that must have these values for the network to compute what the file's does.
    pub needs: &'static [(&'static str, &'static str)],
    /// Prefix of the trained weights.
    pub model: &'static [&'static str],
    /// Prefixes of the moving averages, the one for samples first.
    pub averages: &'static [&'static [&'static str]],
    /// Prefix of every name inside of them, such as `net.`; empty where there is none.
    pub inside: &'static str,
    /// Whether statistics of the latents, `bn.*`, are part of the network.
    pub has_latent_norm: bool,
    /// Names and shapes of one network's tensors.
    pub key_map: fn(&LayoutContext) -> KeyMap,
}

/// What a layout is told about the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutContext {
    /// Channels of a sample.
    pub channels: usize,
    /// Number of blocks.
    pub depth: usize,
    /// The block that is aligned, where one is.
    pub encoder_depth: Option<usize>,
}

#[doc(hidden)]
pub struct Layout(pub &'static CheckpointLayout);
inventory::collect!(Layout);

/// Submits static [`CheckpointLayout`](crate::weights::CheckpointLayout)s.
#[macro_export]
macro_rules! publish_layouts {
    ($($layout:path),+ $(,)?) => {
        $($crate::registry::inventory::submit! { $crate::weights::Layout(&$layout) })+
    };
}

/// All layouts, by name.
pub fn checkpoint_layouts() -> Vec<&'static CheckpointLayout> {
    let mut all: Vec<_> = inventory::iter::<Layout>.into_iter().map(|entry| entry.0).collect();
    all.sort_by_key(|layout| layout.name);
    all
}

/// The layout of this name.
///
/// # Errors
/// There is none; names the nearest.
pub fn find_layout(name: &str) -> Result<&'static CheckpointLayout> {
    let all = checkpoint_layouts();
    if let Some(found) = all.iter().find(|layout| layout.name == name) {
        return Ok(found);
    }
    let names: Vec<&str> = all.iter().map(|layout| layout.name).collect();
    let hint = nearest(name, names.iter().copied()).map_or(String::new(), |near| format!("did you mean `{near}`? "));
    bail!("--layout: unknown layout `{name}`\n  {hint}known: {}", names.join(", "))
}

impl CheckpointLayout {
    /// Refuses a recipe whose network is not the file's.
    ///
    /// # Errors
    /// The backbone is another one, or a key has another value.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let recipe = &plan.recipe;
        let backbone = (recipe.backbone.info().name)();
        ensure!(
            backbone == self.backbone,
            "layout `{}` is of backbone `{}`, and recipe `{}` has `{backbone}`",
            self.name,
            self.backbone,
            plan.recipe_name
        );
        let value = serde_yaml::to_value(recipe)?;
        for (key, wanted) in self.needs {
            let mut found = &value;
            for part in key.split('.') {
                found = &found[part];
            }
            let found = serde_yaml::to_string(found)?;
            ensure!(
                found.trim_end() == *wanted,
                "layout `{}` needs {key} `{wanted}`, found `{}`; add `--set {key}={wanted}`",
                self.name,
                found.trim_end()
            );
        }
        Ok(())
    }

    /// Names and shapes for this recipe's network.
    pub fn key_map_for(&self, plan: &Plan) -> KeyMap {
        let encoder_depth = plan.recipe.alignment.first().map(|term| term.encoder_depth);
        (self.key_map)(&LayoutContext { channels: plan.latent[0], depth: plan.backbone.depth, encoder_depth })
    }
}
