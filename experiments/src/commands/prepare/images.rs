//! `realign prepare images`: the ADM crop of a whole data set.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use realign::data::FileTree;
use realign::data::crop_all::crop_all;

use crate::progress::pictures_bar;

/// Crop every picture of a folder or zip as training does, and write them as PNG
#[derive(Debug, Args)]
pub struct Images {
    /// Folder or zip of pictures, in any folders
    source: PathBuf,
    /// Where to write: a name ending in `.zip`, or a folder
    #[arg(long)]
    out: PathBuf,
    /// Side of the crops, in pixels
    #[arg(long, default_value_t = 256)]
    image_size: usize,
}

impl Images {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let source = FileTree::open(&self.source)?;
        let bar = pictures_bar(source.names().len());
        let count = crop_all(&source, &self.out, self.image_size, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        writeln!(
            out,
            "{count} pictures of {size} x {size} pixels in {out}",
            size = self.image_size,
            out = self.out.display()
        )?;
        Ok(ExitCode::SUCCESS)
    }
}
