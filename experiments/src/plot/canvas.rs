//! A white page of RGB pixels to paste on and draw on.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, Color, DrawingArea, IntoDrawingArea, IntoFont, TextStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, RGBColor, register_font};
use realign::log::save_png;

const FONT: &str = "sans-serif";
/// Pixels by which plotters sets text above the middle that it was given.
pub const TEXT_DROP: i32 = 3;

/// What charts draw on.
pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// RGB, row by row.
    pub pixels: Vec<u8>,
}

impl Canvas {
    /// A white page.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![255; width * height * 3] }
    }

    /// Puts a picture with its upper left corner at `(x, y)`; what lies outside of the page is cut off.
    pub fn paste(&mut self, (x, y): (usize, usize), rgb: &[u8], width: usize) {
        for (row, line) in rgb.chunks_exact(3 * width.max(1)).enumerate() {
            let seen = 3 * width.min(self.width.saturating_sub(x));
            let start = 3 * ((y + row) * self.width + x);
            if let Some(target) = self.pixels.get_mut(start..start + seen).filter(|_| y + row < self.height) {
                target.copy_from_slice(&line[..seen]);
            }
        }
    }

    /// Draws with plotters.
    ///
    /// # Errors
    /// `draw` fails.
    pub fn draw(&mut self, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<()> {
        font()?;
        let side =
            |pixels: usize| u32::try_from(pixels).map_err(|_| anyhow!("a figure of {pixels} pixels is too large"));
        let size = (side(self.width)?, side(self.height)?);
        let area = BitMapBackend::with_buffer(&mut self.pixels, size).into_drawing_area();
        draw(&area)?;
        area.present()?;
        Ok(())
    }

    /// Writes the page as PNG.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        save_png(path, &self.pixels, self.width, self.height)
    }
}

/// Text of `size` pixels, placed by the given corner or middle.
pub fn text_style(size: f64, color: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    font().ok(); // a style takes its font when it is made; where there is none, drawing says so
    let (font, color, pos) = ((FONT, size).into_font(), color.to_backend_color(), Pos::new(horizontal, vertical));
    TextStyle { font, color, pos }
}

/// Makes the fonts known, once; without them plotters would look for those of the system.
pub(super) fn font() -> Result<()> {
    static IS_GOOD: OnceLock<bool> = OnceLock::new();
    let is_good = IS_GOOD.get_or_init(|| {
        let regular = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let bold = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
        regular.is_ok() && bold.is_ok()
    });
    if *is_good { Ok(()) } else { Err(anyhow!("the font of this build cannot be read")) }
}

#[cfg(test)]
mod tests {
    use plotters::element::Text;

    use super::*;

    #[test]
    fn what_is_pasted_beyond_the_edge_is_cut_off() {
        let mut canvas = Canvas::new(5, 4);
        canvas.paste((3, 2), &[7; 3 * 4 * 4], 4);
        let is_set = |x: usize, y: usize| canvas.pixels[3 * (y * 5 + x)] == 7;
        let set: Vec<_> = (0..20).filter(|i| is_set(i % 5, i / 5)).collect();
        assert_eq!(set, [13, 14, 18, 19]);
        canvas.paste((9, 9), &[7; 12], 2);
    }

    #[test]
    fn letters_leave_ink_where_they_are_put() {
        let mut canvas = Canvas::new(120, 40);
        let style = text_style(20.0, RGBColor(0, 0, 0), HPos::Left, VPos::Top);
        canvas.draw(|area| Ok(area.draw(&Text::new("Ägypten ∆", (4, 4), style))?)).unwrap();
        let dark = |i: &usize| canvas.pixels[3 * i] < 100;
        assert!((0..120 * 40).filter(dark).count() > 100);
        assert!((0..120 * 40).filter(dark).all(|i| i % 120 >= 3 && i / 120 < 30));
    }
}
