//! Points with names, their least-squares line and Pearson's r, in panels side by side.

use anyhow::Result;
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::element::{Circle, PathElement, Text};
use plotters::prelude::{Color, Rectangle};
use plotters::style::text_anchor::{HPos, VPos};
use realign::eval::Correlation;

use super::canvas::{Area, Canvas, TEXT_DROP, text_style};
use super::colors::{BLUE, INK, PALE, RED};
use super::labels::place_labels;

const PANEL: [usize; 2] = [860, 720]; // pixels
const TEXT: f64 = 21.0;
const SMALL: f64 = 16.0;

/// One panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Above the panel.
    pub title: String,
    /// Below the title: what is to be compared with.
    pub subtitle: String,
    /// Names of the axes.
    pub axes: [String; 2],
    /// Name, x and y of each point.
    pub points: Vec<(String, f64, f64)>,
    /// The line.
    pub line: Option<Correlation>,
}

/// Draws the panels, two in a row.
///
/// # Errors
/// Drawing fails.
pub fn scatter_chart(panels: &[Panel]) -> Result<Canvas> {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    let mut canvas = Canvas::new(columns * PANEL[0], rows * PANEL[1]);
    canvas.draw(|area| {
        let cells = area.split_evenly((rows, columns));
        panels.iter().zip(&cells).try_for_each(|(panel, cell)| draw_panel(panel, cell))
    })?;
    Ok(canvas)
}

/// Least and largest value with a margin.
pub(super) fn range(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let space = if high > low { (high - low) * margin } else { high.abs().max(1.0) * margin };
    low - space..high + space
}

/// Digits after the point that tell ten marks of a range apart.
pub(super) fn digits(range: &std::ops::Range<f64>) -> usize {
    let step = ((range.end - range.start) / 5.0).max(f64::MIN_POSITIVE);
    (-step.log10().floor()).clamp(0.0, 6.0) as usize
}

fn draw_panel(panel: &Panel, area: &Area<'_>) -> Result<()> {
    let (x, y) = (range(panel.points.iter().map(|p| p.1), 0.12), range(panel.points.iter().map(|p| p.2), 0.12));
    let (digits_x, digits_y) = (digits(&x), digits(&y));
    area.draw(&Text::new(panel.title.clone(), (110, 18), text_style(TEXT * 1.15, INK, HPos::Left, VPos::Top)))?;
    area.draw(&Text::new(panel.subtitle.clone(), (110, 50), text_style(SMALL, INK, HPos::Left, VPos::Top)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(84)
        .margin_right(30)
        .margin_bottom(14)
        .margin_left(14)
        .set_label_area_size(LabelAreaPosition::Left, 84)
        .set_label_area_size(LabelAreaPosition::Bottom, 66)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .light_line_style(PALE.mix(0.0))
        .bold_line_style(PALE)
        .axis_style(INK)
        .x_labels(7)
        .y_labels(7)
        .x_label_formatter(&|value| format!("{value:.digits_x$}"))
        .y_label_formatter(&|value| format!("{value:.digits_y$}"))
        .label_style(text_style(SMALL, INK, HPos::Center, VPos::Top))
        .axis_desc_style(text_style(TEXT, INK, HPos::Center, VPos::Top))
        .x_desc(panel.axes[0].clone())
        .y_desc(panel.axes[1].clone())
        .draw()?;
    if let Some(line) = panel.line {
        let at = |x: f64| (x, line.slope * x + line.offset);
        let clipped = clip(at(x.start), at(x.end), &y);
        chart.draw_series([PathElement::new(clipped.to_vec(), RED.mix(0.7).stroke_width(2))])?;
    }
    chart.draw_series(panel.points.iter().map(|(_, x, y)| Circle::new((*x, *y), 6, BLUE.mix(0.85).filled())))?;
    let marks: Vec<(i32, i32)> = panel.points.iter().map(|(_, x, y)| chart.backend_coord(&(*x, *y))).collect();
    let style = text_style(SMALL, INK, HPos::Left, VPos::Top);
    let size = |name: &str| area.estimate_text_size(name, &style).map(|(w, h)| (w as i32, h as i32));
    let sizes = panel.points.iter().map(|(name, ..)| size(name)).collect::<Result<Vec<_>, _>>()?;
    let (frame_x, frame_y) = chart.plotting_area().get_pixel_range();
    let frame = [frame_x.start, frame_y.start, frame_x.end - frame_x.start, frame_y.end - frame_y.start];
    let origin = area.get_base_pixel();
    for ((name, ..), (x, y)) in panel.points.iter().zip(place_labels(&marks, &sizes, 11, frame)) {
        area.draw(&Text::new(name.clone(), (x - origin.0, y - origin.1 + TEXT_DROP), style.clone()))?;
    }
    let corners =
        [(frame_x.start - origin.0, frame_y.start - origin.1), (frame_x.end - origin.0, frame_y.end - origin.1)];
    area.draw(&Rectangle::new(corners, PALE.stroke_width(1)))?;
    Ok(())
}

/// The part of a line between two points that lies inside a range of y.
fn clip(a: (f64, f64), b: (f64, f64), y: &std::ops::Range<f64>) -> [(f64, f64); 2] {
    let inside = |from: (f64, f64), to: (f64, f64)| {
        let edge = from.1.clamp(y.start, y.end);
        let share = if (to.1 - from.1).abs() < f64::MIN_POSITIVE { 0.0 } else { (edge - from.1) / (to.1 - from.1) };
        (from.0 + share * (to.0 - from.0), edge)
    };
    [inside(a, b), inside(b, a)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_leaves_the_panel() {
        assert_eq!(clip((0.0, -1.0), (1.0, 1.0), &(0.0..2.0)), [(0.5, 0.0), (1.0, 1.0)]);
        assert_eq!(clip((0.0, 1.0), (1.0, 1.0), &(0.0..2.0)), [(0.0, 1.0), (1.0, 1.0)]);
    }

    #[test]
    fn ranges_leave_room_also_for_a_single_value() {
        assert_eq!(range([1.0, f64::NAN, 3.0].into_iter(), 0.5), 0.0..4.0);
        assert_eq!(range([4.0].into_iter(), 0.5), 2.0..6.0);
        assert_eq!(range(std::iter::empty(), 0.0), 0.0..1.0);
        assert_eq!([digits(&(0.0..50.0)), digits(&(0.0..1.0)), digits(&(0.0..0.02))], [0, 1, 3]);
    }

    #[test]
    fn panels_stand_two_in_a_row_and_show_their_points() {
        let panel = Panel {
            title: "r = 1".into(),
            subtitle: String::new(),
            axes: ["x".into(), "y".into()],
            points: (0..5).map(|i| (format!("point {i}"), f64::from(i), f64::from(i * 2))).collect(),
            line: realign::eval::correlation(&[(0.0, 0.0), (1.0, 2.0), (2.0, 4.0)]),
        };
        let canvas = scatter_chart(&[panel.clone(), panel.clone(), panel]).unwrap();
        assert_eq!((canvas.width, canvas.height), (2 * PANEL[0], 2 * PANEL[1]));
        let is_blue = |pixel: &[u8]| pixel[2] > 150 && pixel[0] < 90;
        assert!(canvas.pixels.chunks_exact(3).filter(|pixel| is_blue(pixel)).count() > 3 * 5 * 80);
        assert!(scatter_chart(&[]).is_ok());
    }
}
