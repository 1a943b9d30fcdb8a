
pub mod datasets;
