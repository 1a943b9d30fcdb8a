//! What networks learn to predict.

pub mod flow_matching;
pub mod mean_flow;
pub mod x_prediction;
