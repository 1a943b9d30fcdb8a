//! Values over steps: one line for each run, with its interval where there is one.

use anyhow::Result;
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::element::{Circle, PathElement, Polygon, Text};
use plotters::prelude::{Color, DrawingArea, DrawingBackend, LineSeries, Rectangle};
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::text_style;
use super::colors::{INK, PALE, series};
use super::scatter::{digits, range};

/// Width and height of a figure, in pixels.
pub const CURVES: [usize; 2] = [1180, 640];
const LEGEND: i32 = 330;
const TEXT: f64 = 20.0;
const SMALL: f64 = 16.0;
const MARKED: usize = 40; // more points are a line alone

/// One line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// Step and value, in the order of steps.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end at each point; empty where there are none.
    pub band: Vec<[f64; 2]>,
}

/// What is along the axes.
#[derive(Debug, Clone, Default)]
pub struct Axes {
    /// Above the figure.
    pub title: String,
    /// Along the steps, with the unit.
    pub x: String,
    /// Along the values.
    pub y: String,
    /// Whether each axis is logarithmic: x, y.
    pub log: [bool; 2],
}

/// Draws the lines; on a logarithmic axis values that are not positive are left out.
///
/// # Errors
/// Drawing fails.
pub fn draw_curves<B>(area: &DrawingArea<B, Shift>, axes: &Axes, curves: &[Curve]) -> Result<()>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let scaled: Vec<Curve> = curves.iter().map(|curve| scaled(curve, axes.log)).collect();
    let points = || scaled.iter().flat_map(|curve| &curve.points);
    let bands = scaled.iter().flat_map(|curve| curve.band.iter().flatten());
    let x = range(points().map(|point| point.0), 0.03);
    let y = range(points().map(|point| point.1).chain(bands.copied()), 0.08);
    area.draw(&Text::new(axes.title.clone(), (24, 18), text_style(TEXT * 1.2, INK, HPos::Left, VPos::Top)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(64)
        .margin_left(12)
        .margin_right(LEGEND)
        .margin_bottom(12)
        .set_label_area_size(LabelAreaPosition::Left, 96)
        .set_label_area_size(LabelAreaPosition::Bottom, 62)
        .build_cartesian_2d(x.clone(), y.clone())?;
    let (format_x, format_y) = (labels(axes.log[0], &x), labels(axes.log[1], &y));
    chart
        .configure_mesh()
        .light_line_style(PALE.mix(0.0))
        .bold_line_style(PALE)
        .axis_style(INK)
        .x_labels(7)
        .y_labels(7)
        .x_label_formatter(&format_x)
        .y_label_formatter(&format_y)
        .label_style(text_style(SMALL, INK, HPos::Center, VPos::Top))
        .axis_desc_style(text_style(TEXT, INK, HPos::Center, VPos::Top))
        .x_desc(axes.x.clone())
        .y_desc(axes.y.clone())
        .draw()?;
    for (i, curve) in scaled.iter().enumerate() {
        let color = series(i);
        if curve.band.len() == curve.points.len() && curve.points.len() > 1 {
            let upper = curve.points.iter().zip(&curve.band).map(|((x, _), [_, high])| (*x, *high));
            let lower = curve.points.iter().zip(&curve.band).rev().map(|((x, _), [low, _])| (*x, *low));
            chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), color.mix(0.15))])?;
        } else {
            let whiskers =
                curve.points.iter().zip(&curve.band).map(|((x, _), [low, high])| vec![(*x, *low), (*x, *high)]);
            chart.draw_series(whiskers.map(|ends| PathElement::new(ends, color.stroke_width(2))))?;
        }
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?;
        if curve.points.len() <= MARKED {
            chart.draw_series(curve.points.iter().map(|point| Circle::new(*point, 4, color.filled())))?;
        }
    }
    legend(area, curves)
}

fn legend<B>(area: &DrawingArea<B, Shift>, curves: &[Curve]) -> Result<()>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let left = area.dim_in_pixel().0 as i32 - LEGEND + 18; // a figure is no billion pixels wide
    for (i, curve) in curves.iter().enumerate() {
        let top = 72 + 26 * i as i32;
        area.draw(&Rectangle::new([(left, top + 6), (left + 22, top + 10)], series(i).filled()))?;
        let style = text_style(SMALL, INK, HPos::Left, VPos::Top);
        area.draw(&Text::new(shortened(&curve.name), (left + 32, top), style))?;
    }
    Ok(())
}

/// A name that fits the legend; its end tells runs apart, so the middle goes.
fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    match letters.len() {
        0..=34 => name.into(),
        count => letters[..16].iter().chain(['…'].iter()).chain(&letters[count - 17..]).collect(),
    }
}

fn scaled(curve: &Curve, log: [bool; 2]) -> Curve {
    let scale = |value: f64, is_log: bool| if is_log { value.log10() } else { value };
    let mut scaled = Curve { name: curve.name.clone(), ..Curve::default() };
    for (i, (x, y)) in curve.points.iter().enumerate() {
        let point = (scale(*x, log[0]), scale(*y, log[1]));
        let ends = curve.band.get(i).map(|ends| ends.map(|end| scale(end, log[1])));
        let is_finite = point.0.is_finite() && point.1.is_finite();
        if is_finite && ends.is_none_or(|ends| ends.iter().all(|end| end.is_finite())) {
            scaled.points.push(point);
            scaled.band.extend(ends);
        }
    }
    scaled
}

/// How an axis writes its values.
fn labels(is_log: bool, range: &std::ops::Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let digits = digits(range);
    move |value: &f64| match is_log {
        true if *value >= 2.0 => format!("{:.0}", 10f64.powf(*value)),
        true => format!("{:.3}", 10f64.powf(*value)),
        false => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Canvas, svg};

    fn curve(name: &str, values: &[f64]) -> Curve {
        let points = values.iter().zip(1..).map(|(value, step)| (f64::from(step), *value)).collect();
        Curve { name: name.into(), points, band: vec![] }
    }

    #[test]
    fn every_run_has_a_line_of_its_color_and_a_name() {
        let curves = [curve("one", &[3.0, 2.0, 1.0]), curve("two", &[4.0, 3.5, 3.0])];
        let mut canvas = Canvas::new(CURVES[0], CURVES[1]);
        canvas.draw(|area| draw_curves(area, &Axes::default(), &curves)).unwrap();
        for i in 0..2 {
            let ink = series(i);
            let count = canvas.pixels.chunks_exact(3).filter(|pixel| *pixel == [ink.0, ink.1, ink.2]).count();
            assert!(count > 200, "line {i}: {count}");
        }
        let text = svg(CURVES, |area| draw_curves(area, &Axes::default(), &curves)).unwrap();
        assert!(text.starts_with("<svg") && text.contains("one") && text.contains("two"));
    }

    #[test]
    fn a_logarithmic_axis_leaves_out_what_it_cannot_show() {
        let line = scaled(&curve("one", &[0.0, 10.0, -1.0, 100.0]), [false, true]);
        assert_eq!(line.points, [(2.0, 1.0), (4.0, 2.0)]);
        assert_eq!([labels(true, &(0.0..3.0))(&3.0), labels(false, &(0.0..50.0))(&20.0)], ["1000", "20"]);
    }

    #[test]
    fn a_long_name_keeps_its_beginning_and_its_end() {
        let name = "runs/sit-irepa-no-spatial-norm-demo-0123abcd";
        let short = shortened(name);
        assert!(short.starts_with("runs/sit-irepa") && short.ends_with("demo-0123abcd") && short.chars().count() == 34);
        assert_eq!(shortened("iREPA"), "iREPA");
    }
}
