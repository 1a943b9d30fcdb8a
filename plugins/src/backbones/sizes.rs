//! What the transformers' sizes have in common.

use anyhow::{Result, bail, ensure};
use realign::plugin::PatchGrid;
use realign::recipe::Check;

/// The sizes that every transformer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Channels of the tokens.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Side of a patch.
    pub patch_size: usize,
}

/// The same keys of a recipe; what is left out is the published size's.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub hidden_size: Option<usize>,
    pub depth: Option<usize>,
    pub num_heads: Option<usize>,
    pub patch_size: Option<usize>,
}

impl Keys {
    /// The sizes, in the allowed ranges; whether the heads divide the width is left to the network.
    ///
    /// # Errors
    /// Names the key that is missing or out of range.
    pub fn resolve(self, published: Option<Base>) -> Result<Base> {
        let base = Base {
            hidden_size: pick(self.hidden_size, published.map(|base| base.hidden_size), "hidden_size")?,
            depth: pick(self.depth, published.map(|base| base.depth), "depth")?,
            num_heads: pick(self.num_heads, published.map(|base| base.num_heads), "num_heads")?,
            patch_size: pick(self.patch_size, published.map(|base| base.patch_size), "patch_size")?,
        };
        let Base { hidden_size, depth, patch_size, .. } = base;
        ensure!(
            (1..=65_536).contains(&hidden_size) && hidden_size.is_multiple_of(4),
            "hidden_size: `{hidden_size}` is not allowed; it must be a multiple of 4 up to 65536"
        );
        ensure!((1..=1000).contains(&depth), "depth: `{depth}` is out of range; allowed is 1 to 1000");
        ensure!((1..=1024).contains(&patch_size), "patch_size: `{patch_size}` is out of range; allowed is 1 to 1024");
        Ok(base)
    }
}

impl Base {
    /// # Errors
    /// The heads do not divide the width.
    pub fn check_heads(&self) -> Result<()> {
        let Self { hidden_size, num_heads, .. } = self;
        ensure!(
            *num_heads > 0 && hidden_size.is_multiple_of(*num_heads),
            "num_heads: `{num_heads}` does not divide hidden_size `{hidden_size}`"
        );
        Ok(())
    }

    /// Hidden width of an MLP of `ratio` hidden sizes, cut to a whole number.
    ///
    /// # Errors
    /// The ratio is out of range.
    pub fn mlp_size(&self, ratio: f64) -> Result<usize> {
        ensure!(ratio > 0.0 && ratio <= 64.0, "mlp_ratio: `{ratio}` is out of range; allowed is above 0 to 64");
        Ok(((self.hidden_size as f64 * ratio) as usize).max(1))
    }

    /// The grid of patches of an input `[channels, height, width]`.
    ///
    /// # Errors
    /// Patches do not divide it.
    pub fn grid(&self, [_, height, width]: [usize; 3]) -> Result<PatchGrid> {
        let patch = self.patch_size;
        ensure!(
            [height, width].iter().all(|side| *side >= patch && side.is_multiple_of(patch)),
            "patch_size `{patch}` does not divide the input of {height}x{width}"
        );
        Ok(PatchGrid::new(height / patch, width / patch))
    }
}

/// A recipe's value, or else the published size's.
///
/// # Errors
/// There is neither; names the key.
pub fn pick(own: Option<usize>, published: Option<usize>, key: &str) -> Result<usize> {
    match own.or(published) {
        Some(value) => Ok(value),
        None => bail!("`{key}` is missing; give it, or a published `size`"),
    }
}

/// Records what is wrong with a published size's name, a time scale, or else with the sizes.
pub fn check_keys<T>(check: &mut Check<'_>, size: Option<&str>, names: &[String], time_scale: f64, sizes: Result<T>) {
    if !(time_scale > 0.0 && time_scale <= 1e6) {
        check.bad("time_scale", format!("`{time_scale}` is out of range; allowed is above 0 to 1000000"));
    }
    match (size, sizes) {
        (Some(size), _) if !names.iter().any(|name| name == size) => check.one_of("size", size, names),
        (_, Err(problem)) => check.record(&problem),
        _ => {}
    }
}
