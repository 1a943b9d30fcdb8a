//! Figures as SVG text.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};

use super::canvas::font;

/// The figure that `draw` draws on a page of this width and height, as an SVG element that follows the width it is given.
///
/// # Errors
/// `draw` fails.
pub fn svg(
    [width, height]: [usize; 2],
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<()>,
) -> Result<String> {
    font()?;
    let side = |pixels: usize| u32::try_from(pixels).map_err(|_| anyhow!("a figure of {pixels} pixels is too large"));
    let size = (side(width)?, side(height)?);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present()?;
    }
    // The element alone, for a page; its view box scales it.
    let fixed = format!("width=\"{width}\" height=\"{height}\"");
    Ok(text.replacen(&fixed, "width=\"100%\"", 1))
}
