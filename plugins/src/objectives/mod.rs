//! What networks learn to predict.

pub mod flow_matching;
pub mod x_prediction;
