//! Whether a file of published weights is whole, and fits the network that reads it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use realign::files::sha256;
use realign::weights::{PublishedWeights, TensorFile};

/// Reports on the file that is expected for `weights`.
///
/// # Errors
/// It is absent, cannot be read, has another hash or size, or does not fit.
pub fn verify(weights: &PublishedWeights, weights_dir: &Path, out: &mut dyn Write) -> Result<ExitCode> {
    let path = weights.path(weights_dir);
    ensure!(path.exists(), "`{}` is missing; get it with `{}`", path.display(), weights.command(&path));
    let num_bytes = fs::metadata(&path)?.len();
    let file = TensorFile::open(&path)?;
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let (mut count, mut num_values) = (0usize, 0usize);
    for (name, info) in file.tensors() {
        *types.entry(format!("{:?}", info.element)).or_default() += 1;
        num_values += info.shape.iter().product::<usize>();
        let is_finite = file.read(name)?.values.iter().all(|value| value.is_finite());
        ensure!(is_finite, "`{}`: tensor `{name}` has values that are not finite", path.display());
        count += 1;
    }
    let types: Vec<String> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    writeln!(out, "file     {} ({num_bytes} bytes, {})", path.display(), file.format())?;
    writeln!(out, "tensors  {count} ({}), {num_values} values, all finite", types.join(", "))?;
    let found = sha256(&path)?;
    let state = match &weights.sha256 {
        Some(expected) => {
            ensure!(found == *expected, "`{}` has SHA-256 {found}, expected {expected}", path.display());
            "as published"
        }
        None => "nothing published to compare with",
    };
    writeln!(out, "sha256   {found} ({state})")?;
    if let Some(expected) = weights.num_bytes {
        ensure!(num_bytes == expected, "`{}` has {num_bytes} bytes, expected {expected}", path.display());
    }
    match weights.fit {
        Some(fit) => writeln!(out, "network  fits: all of its {} parameters are in the file", fit(weights, &path)?)?,
        None => writeln!(out, "network  `import --layout {}` checks names and shapes with a recipe", weights.layout)?,
    }
    Ok(ExitCode::SUCCESS)
}
