//! Means with their intervals, one line for each name, best on top.

use anyhow::Result;
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::element::{Circle, PathElement, Text};
use plotters::prelude::{Color, DrawingArea, DrawingBackend};
use plotters::style::text_anchor::{HPos, VPos};
use realign::eval::bootstrap::Interval;

use super::canvas::{Canvas, TEXT_DROP, text_style};
use super::colors::{BLUE, INK, PALE};
use super::scatter::{digits, range};

const WIDTH: usize = 1180; // pixels
const NAMES: usize = 330; // of names as most are
const MOST_NAMES: usize = 620;
const NOTES: usize = 150;
const LINE: usize = 52;
const ABOVE: usize = 96;
const BELOW: usize = 86;
const TEXT: f64 = 20.0;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct IntervalRow {
    /// To the left.
    pub name: String,
    /// To the right.
    pub note: String,
    /// Where the mark and its whiskers are.
    pub interval: Interval,
}

/// Draws the rows under a title; `axis` names the values.
///
/// # Errors
/// Drawing fails.
pub fn interval_chart(title: &str, subtitle: &str, axis: &str, rows: &[IntervalRow]) -> Result<Canvas> {
    let [width, height] = interval_size(rows.len());
    let mut canvas = Canvas::new(width, height);
    canvas.draw(|area| draw_intervals(area, [title, subtitle, axis], rows))?;
    Ok(canvas)
}

/// Width and height of a figure of so many rows, in pixels.
pub fn interval_size(rows: usize) -> [usize; 2] {
    [WIDTH, ABOVE + LINE * rows.max(1) + BELOW]
}

/// As [`interval_chart`], on any page of [`interval_size`].
///
/// # Errors
/// Drawing fails.
pub fn draw_intervals<B>(
    area: &DrawingArea<B, Shift>,
    [title, subtitle, axis]: [&str; 3],
    rows: &[IntervalRow],
) -> Result<()>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let values = rows.iter().flat_map(|row| [row.interval.low, row.interval.mean, row.interval.high]);
    let x = range(values, 0.08);
    let digits = digits(&x);
    let name_style = text_style(TEXT, INK, HPos::Right, VPos::Center);
    let width_of =
        |row: &IntervalRow| area.estimate_text_size(&row.name, &name_style).map_or(0, |size| size.0 as usize);
    let names = (rows.iter().map(width_of).max().unwrap_or(0) + 32).clamp(NAMES, MOST_NAMES);
    area.draw(&Text::new(title.to_string(), (24, 18), text_style(TEXT * 1.2, INK, HPos::Left, VPos::Top)))?;
    area.draw(&Text::new(subtitle.to_string(), (24, 52), text_style(TEXT * 0.8, INK, HPos::Left, VPos::Top)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(ABOVE as u32)
        .margin_left(names as u32)
        .margin_right(NOTES as u32)
        .margin_bottom(12)
        .set_label_area_size(LabelAreaPosition::Bottom, (BELOW - 12) as u32)
        .build_cartesian_2d(x, 0.0..rows.len().max(1) as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(PALE.mix(0.0))
        .bold_line_style(PALE)
        .axis_style(INK)
        .x_labels(8)
        .x_label_formatter(&|value| format!("{value:.digits$}"))
        .label_style(text_style(TEXT * 0.8, INK, HPos::Center, VPos::Top))
        .axis_desc_style(text_style(TEXT, INK, HPos::Center, VPos::Top))
        .x_desc(axis)
        .draw()?;
    for (i, row) in rows.iter().enumerate() {
        let y = rows.len() as f64 - i as f64 - 0.5;
        let pixel = (ABOVE + i * LINE + LINE / 2) as i32 + TEXT_DROP;
        area.draw(&Text::new(row.name.clone(), (names as i32 - 16, pixel), name_style.clone()))?;
        let note = text_style(TEXT * 0.85, INK, HPos::Left, VPos::Center);
        area.draw(&Text::new(row.note.clone(), ((WIDTH - NOTES) as i32 + 14, pixel), note))?;
        let Interval { mean, low, high } = row.interval;
        if !mean.is_finite() {
            continue;
        }
        let strokes = [[(low, y), (high, y)], [(low, y - 0.12), (low, y + 0.12)], [(high, y - 0.12), (high, y + 0.12)]];
        let drawn = strokes.into_iter().filter(|stroke| stroke.iter().all(|(x, _)| x.is_finite()));
        chart.draw_series(drawn.map(|stroke| PathElement::new(stroke.to_vec(), BLUE.stroke_width(2))))?;
        chart.draw_series([Circle::new((mean, y), 8, BLUE.filled())])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_mark_and_one_without_a_number_has_none() {
        let row = |mean: f64| IntervalRow {
            name: "an encoder".into(),
            note: "12 ms".into(),
            interval: Interval { mean, low: mean - 0.1, high: mean + 0.1 },
        };
        let marks = |rows: &[IntervalRow]| {
            let canvas = interval_chart("title", "subtitle", "lds", rows).unwrap();
            canvas.pixels.chunks_exact(3).filter(|pixel| pixel[2] > 150 && pixel[0] < 60).count()
        };
        let two = marks(&[row(0.5), row(0.2)]);
        assert!(two > 2 * 150, "{two}");
        assert_eq!(marks(&[row(f64::NAN)]), 0);
        interval_chart("", "", "", &[]).unwrap();
    }
}
