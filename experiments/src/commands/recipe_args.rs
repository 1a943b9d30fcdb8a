//! Naming a recipe on the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use realign::ops::{self, DeviceChoice, Precision};
use realign::recipe::{Job, Layered, Plan, Settings};

/// A recipe, its profile and overrides.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Recipe file
    pub recipe: PathBuf,
    /// Scale of the run: a file of `profiles/`, or `none`
    #[arg(long)]
    pub profile: Option<String>,
    /// Override one value, `train.steps=100`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

impl RecipeArgs {
    /// Reads the recipe and works out every shape.
    ///
    /// # Errors
    /// As [`settings`], [`Layered::load`] and [`Plan::new`].
    pub fn plan(&self) -> Result<(Layered, Plan)> {
        let layered = Layered::load_over(&settings()?, &self.recipe, self.profile.as_deref(), &self.sets)?;
        let plan = Plan::new(&layered)?;
        Ok((layered, plan))
    }
}

impl RecipeArgs {
    /// As [`plan`](Self::plan), of a recipe of either sort.
    ///
    /// # Errors
    /// As [`Layered::load`] and [`Job::new`].
    pub fn job(&self) -> Result<(Layered, Job)> {
        let layered = Layered::load_over(&settings()?, &self.recipe, self.profile.as_deref(), &self.sets)?;
        let job = Job::new(&layered)?;
        Ok((layered, job))
    }
}

/// The user's own settings: `realign/settings.yaml` in the platform's folder of settings, `~/.config` on Linux.
///
/// # Errors
/// The file says what is no setting.
pub fn settings() -> Result<Settings> {
    match dirs::config_dir() {
        Some(folder) => Settings::read(&folder.join("realign").join("settings.yaml"), dirs::home_dir().as_deref()),
        None => Ok(Settings::default()),
    }
}

/// Opens the recipe's device once, so that one that is not there, or lacks the precision, is refused at the line that
/// asks for it.
///
/// # Errors
/// `file:line: device: message`, or of `precision`.
pub fn check_device(layered: &Layered, device: &str, precision: Precision) -> Result<()> {
    layered.check(|check| match DeviceChoice::parse(device).and_then(ops::open) {
        Ok(device) => {
            if let Err(problem) = precision.check(&device) {
                check.record(&problem);
            }
        }
        Err(problem) => check.bad("device", format!("{problem:#}")),
    })
}
