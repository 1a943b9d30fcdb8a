//! How much an encoder's features say about the whole picture: linear and nearest-neighbor probes.
//!
//! Sources: the paper, sections 2 and 3 and figure 14; MAE `main_linprobe.py`; DINO `eval_knn.py`.

mod crop;
mod features;
mod knn;
mod lars;
mod linear;

pub use crop::random_resized_crop;
pub use features::{ProbeFeatures, encode};
pub use knn::{Knn, knn_accuracy};
pub use lars::{Lars, LarsState};
pub use linear::{LinearProbe, ProbeReport, linear_probe};
