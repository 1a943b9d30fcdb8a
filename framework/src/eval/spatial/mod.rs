//! Spatial structure of patch tokens: how similarity falls with distance on the grid.
//!
//! Source: the paper, section 3 and appendix B; iREPA `metrics/spatial_metrics.py`. All are larger for more structure,
//! take `[batch, tokens, channels]` with a grid, compute in f32 on the tokens' device and return one value per image.
//! `docs/spatial-metrics.md` has the equations, and says where the paper and its code differ.

mod cds;
mod kernel;
mod lds;
mod metric;
mod rmsc;
mod srss;

pub use cds::{Cds, cds};
pub use kernel::{UNIT_EPS, cosine_kernel, manhattan, unit_tokens};
pub use lds::{Lds, LdsMode, lds};
pub use metric::{SpatialMetric, mean_of_numbers};
pub use rmsc::{Rmsc, rmsc};
pub use srss::{Srss, srss};
