//! The page: pictures with their anchors, and heat maps in two halves under one color scale.

use anyhow::Result;
use plotters::element::{Circle, PathElement, Polygon, Text};
use plotters::prelude::{Color, Rectangle};
use plotters::style::text_anchor::{HPos, VPos};
use realign::data::RgbImage;
use realign::data::resample::{Filter, resize};
use realign::plugin::PatchGrid;

use super::{Anchor, Maps};
use crate::plot::{Area, Canvas, INK, PALE, RED, TEXT_DROP, text_style, viridis};

const CELL: usize = 168; // pixels of a picture's side
const GAP: usize = 10;
const HALF_GAP: usize = 34; // between the halves
const LEFT: usize = 24;
const ABOVE: usize = 96; // titles
const LABEL: usize = 34; // above each row
const BELOW: usize = 22;
const BAR: usize = 150; // color scale with its numbers
const TEXT: f64 = 20.0;
const SMALL: f64 = 16.0;

/// One row: features from one place, before and after normalization.
pub struct Line {
    pub label: String,
    pub grid: PatchGrid,
    pub halves: [Maps; 2],
}

/// Where things are on the page, in pixels.
struct Layout {
    num_maps: usize,
    num_rows: usize,
}

impl Layout {
    /// Left edge of a half's column; the last one is that of the components.
    fn column(&self, half: usize, column: usize) -> usize {
        let half_width = (self.num_maps + 1) * (CELL + GAP);
        LEFT + CELL + HALF_GAP + half * (half_width + HALF_GAP) + column * (CELL + GAP)
    }

    fn row(&self, row: usize) -> usize {
        ABOVE + LABEL + row * (CELL + LABEL + GAP)
    }

    fn bar(&self) -> usize {
        self.column(1, self.num_maps + 1) + 8
    }

    fn size(&self) -> (usize, usize) {
        (self.bar() + BAR, self.row(self.num_rows - 1) + CELL + BELOW)
    }
}

/// Draws one picture's page; all maps share one scale.
pub fn draw(picture: &RgbImage, anchors: &[Anchor], lines: &[Line], titles: &[String; 2]) -> Result<Canvas> {
    let layout = Layout { num_maps: anchors.len(), num_rows: lines.len().max(1) };
    let (width, height) = layout.size();
    let mut canvas = Canvas::new(width, height);
    let all = || lines.iter().flat_map(|line| line.halves.iter().flat_map(|half| half.maps.iter().flatten()));
    let low = all().copied().fold(f32::INFINITY, f32::min).min(1.0);
    let high = all().copied().fold(f32::NEG_INFINITY, f32::max).max(low + 1e-6);
    let shown = resize(picture, CELL, CELL, Filter::Bicubic);
    for (row, line) in lines.iter().enumerate() {
        let y = layout.row(row);
        canvas.paste((LEFT, y), shown.pixels(), CELL);
        for (half, maps) in line.halves.iter().enumerate() {
            for (column, map) in maps.maps.iter().enumerate() {
                let color = |token: usize| viridis(f64::from((map[token] - low) / (high - low)));
                canvas.paste((layout.column(half, column), y), &enlarged(line.grid, color), CELL);
            }
            let color = |token: usize| maps.colors[token].map(|share| (share * 255.0).round() as u8);
            canvas.paste((layout.column(half, anchors.len()), y), &enlarged(line.grid, color), CELL);
        }
    }
    let bar_height = height - layout.row(0) - BELOW;
    let bar: Vec<u8> = (0..bar_height * 24).flat_map(|i| viridis(1.0 - (i / 24) as f64 / bar_height as f64)).collect();
    canvas.paste((layout.bar(), layout.row(0)), &bar, 24);
    canvas.draw(|area| {
        headings(area, &layout, titles)?;
        for (row, line) in lines.iter().enumerate() {
            label(area, &layout, row, line)?;
            marks(area, &layout, row, line.grid, anchors)?;
        }
        scale(area, &layout, bar_height, low, high)
    })?;
    Ok(canvas)
}

/// A grid's colors as a square of pixels, each token a block.
fn enlarged(grid: PatchGrid, color: impl Fn(usize) -> [u8; 3]) -> Vec<u8> {
    let pixels =
        (0..CELL * CELL).map(|i| (i / CELL * grid.rows / CELL) * grid.columns + i % CELL * grid.columns / CELL);
    pixels.flat_map(color).collect()
}

fn headings(area: &Area<'_>, layout: &Layout, titles: &[String; 2]) -> Result<()> {
    for (half, title) in titles.iter().enumerate() {
        let left = layout.column(half, 0) as i32;
        area.draw(&Text::new(title.clone(), (left, 16), text_style(TEXT * 1.15, INK, HPos::Left, VPos::Top)))?;
        let right = (layout.column(half, layout.num_maps) + CELL) as i32;
        area.draw(&PathElement::new([(left, 50), (right, 50)], INK.stroke_width(2)))?;
        for column in 0..=layout.num_maps {
            let middle = (layout.column(half, column) + CELL / 2) as i32;
            let name = if column == layout.num_maps { "components".into() } else { format!("anchor {}", column + 1) };
            area.draw(&Text::new(name, (middle, 64), text_style(SMALL, INK, HPos::Center, VPos::Top)))?;
        }
    }
    Ok(())
}

fn label(area: &Area<'_>, layout: &Layout, row: usize, line: &Line) -> Result<()> {
    let y = layout.row(row) as i32 - 8;
    area.draw(&Text::new(line.label.clone(), (LEFT as i32, y), text_style(TEXT, INK, HPos::Left, VPos::Bottom)))?;
    for (half, maps) in line.halves.iter().enumerate() {
        let left = layout.column(half, 0) as i32;
        let place = (left + (line.label.chars().count() as i32 * 12 - left + LEFT as i32 + 12).max(0), y);
        let text = format!("mean off-object similarity {:.3}", maps.off_object);
        area.draw(&Text::new(text, place, text_style(SMALL, INK, HPos::Left, VPos::Bottom)))?;
    }
    Ok(())
}

/// Numbered anchors on the picture, a star on each map.
fn marks(area: &Area<'_>, layout: &Layout, row: usize, grid: PatchGrid, anchors: &[Anchor]) -> Result<()> {
    let y = layout.row(row);
    for (i, anchor) in anchors.iter().enumerate() {
        let (cell_row, cell_column) = anchor.cell(grid);
        let middle = |cell: usize, side: usize| (2 * cell + 1) * CELL / (2 * side);
        let (dy, dx) = (middle(cell_row, grid.rows), middle(cell_column, grid.columns));
        for half in 0..2 {
            star(area, ((layout.column(half, i) + dx) as i32, (y + dy) as i32))?;
        }
        let (x, y) = ((LEFT + dx) as i32, (y + dy) as i32);
        star(area, (x, y))?;
        // Beside the star, on whichever side there is room.
        let beside = if dx > CELL / 2 { x - 19 } else { x + 19 };
        area.draw(&Circle::new((beside, y), 9, plotters::style::WHITE.filled()))?;
        let number = Text::new(
            (i + 1).to_string(),
            (beside, y + TEXT_DROP - 1),
            text_style(SMALL, INK, HPos::Center, VPos::Center),
        );
        area.draw(&number)?;
    }
    for half in 0..2 {
        for column in 0..=layout.num_maps {
            frame(area, layout.column(half, column), y)?;
        }
    }
    frame(area, LEFT, y)
}

fn frame(area: &Area<'_>, x: usize, y: usize) -> Result<()> {
    let corners = [(x as i32, y as i32), ((x + CELL - 1) as i32, (y + CELL - 1) as i32)];
    area.draw(&Rectangle::new(corners, PALE.stroke_width(1)))?;
    Ok(())
}

/// A red star with a white rim.
fn star(area: &Area<'_>, (x, y): (i32, i32)) -> Result<()> {
    for (radius, color) in [(11.0, plotters::style::WHITE), (8.0, RED)] {
        let corner = |i: i32| {
            let length = if i % 2 == 0 { radius } else { radius * 0.42 };
            let angle = f64::from(i) * std::f64::consts::PI / 5.0;
            let at = |offset: f64| offset.round() as i32;
            (x + at(length * angle.sin()), y - at(length * angle.cos()))
        };
        area.draw(&Polygon::new((0..10).map(corner).collect::<Vec<_>>(), color.filled()))?;
    }
    Ok(())
}

fn scale(area: &Area<'_>, layout: &Layout, height: usize, low: f32, high: f32) -> Result<()> {
    let (x, top) = (layout.bar() as i32, layout.row(0) as i32);
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        let y = top + ((1.0 - share) * height as f64).round() as i32;
        let value = f64::from(low) + share * f64::from(high - low);
        area.draw(&PathElement::new([(x + 24, y), (x + 30, y)], INK.stroke_width(1)))?;
        area.draw(&Text::new(
            format!("{value:.2}"),
            (x + 36, y + TEXT_DROP),
            text_style(SMALL, INK, HPos::Left, VPos::Center),
        ))?;
    }
    area.draw(&Text::new("cosine", (x, top - 34), text_style(SMALL, INK, HPos::Left, VPos::Top)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::maps::OffObject;
    use super::*;

    #[test]
    fn a_page_has_all_maps_under_one_scale() {
        let grid = PatchGrid::new(2, 3);
        let maps = |values: [f32; 6]| Maps {
            maps: vec![values.to_vec()],
            colors: vec![[0.0; 3]; 6],
            off_object: 0.5,
            how: OffObject::Far,
        };
        let picture = RgbImage::new(8, 8, vec![128; 192]).unwrap();
        let (low, high) = (maps([-1.0; 6]), maps([1.0; 6]));
        let line = Line { label: "hog".into(), grid, halves: [low, high] };
        let layout = Layout { num_maps: 1, num_rows: 1 };
        let anchors = [Anchor { y: 0.0, x: 0.0 }];
        let canvas = draw(&picture, &anchors, &[line], &["raw".into(), "norm".into()]).unwrap();
        assert_eq!((canvas.width, canvas.height), layout.size());
        let at = |x: usize, y: usize| &canvas.pixels[3 * (y * canvas.width + x)..][..3];
        let y = layout.row(0) + CELL - 9;
        assert_eq!(at(layout.column(0, 0) + CELL - 9, y), viridis(0.0));
        assert_eq!(at(layout.column(1, 0) + CELL - 9, y), viridis(1.0));
        assert_eq!(at(LEFT + CELL - 9, y), [128; 3]);
    }
}
