//! From files to batches: pictures, the ADM crop, folders and zips, and the loader.

pub mod crop;
pub mod crop_all;
pub mod files;
pub mod image;
pub mod in_order;
pub mod latent_cache;
pub mod latents;
pub mod loader;
pub mod npy;
pub mod npz;
pub mod order;
pub mod pictures;
pub mod resample;

pub use crop::adm_center_crop;
pub use files::FileTree;
pub use image::RgbImage;
pub use in_order::{image_tensor, in_order};
pub use loader::{Batch, Loader, LoaderConfig};
pub use npz::Npz;
pub use pictures::{Fit, Pictures};
