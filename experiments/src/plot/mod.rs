//! Figures as PNG: a canvas with a font of its own, charts, heat maps.

mod canvas;
mod colors;
mod intervals;
mod labels;
mod scatter;

pub use canvas::{Area, Canvas, TEXT_DROP, text_style};
pub use colors::{INK, PALE, RED, viridis};
pub use intervals::{IntervalRow, interval_chart};
pub use scatter::{Panel, scatter_chart};
