//! Figures as PNG or SVG: a canvas with a font of its own, charts, heat maps.

mod canvas;
mod colors;
mod curves;
mod intervals;
mod labels;
mod scatter;
mod vector;

pub use canvas::{Area, Canvas, TEXT_DROP, text_style};
pub use colors::{INK, PALE, RED, viridis};
pub use curves::{Axes, CURVES, Curve, draw_curves};
pub use intervals::{IntervalRow, draw_intervals, interval_chart, interval_size};
pub use scatter::{Panel, scatter_chart};
pub use vector::svg;
