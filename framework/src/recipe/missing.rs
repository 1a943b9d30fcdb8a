//! What a recipe needs and this machine lacks.

use std::fmt::{self, Display, Formatter};

use crate::plugin::encoder::WeightFile;

/// One thing to get before the recipe can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// A file of weights, with the command that gets it.
    Weights(WeightFile),
    /// Data that cannot be opened, and why.
    Data(String),
}

impl Display for Missing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights(file) => write!(f, "`{}` is missing; get it with `{}`", file.path.display(), file.command),
            Self::Data(why) => write!(f, "data: {why}"),
        }
    }
}
