//! Drawing.

use super::axis::{Axis, label};
use super::{Line, Picture, Point};
use plotters::prelude::*;

/// Blue, orange, green, purple, yellow, light blue: told apart by the colour-blind (Wong 2011, Nature Methods 8, 441).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Width and height of a picture, and width of what the lines take of it; their names stand at its side.
const SIZE: (u32, u32) = (900, 400);
const LINES: u32 = 600;

/// The numbers that all lines have points at, if that is a handful.
fn common(lines: &[Line]) -> Option<Vec<f64>> {
    let of = |line: &Line| line.points.iter().map(|p| p.x).collect::<Vec<_>>();
    let first = of(lines.first()?);
    (first.len() < 9 && lines.iter().all(|line| of(line) == first)).then_some(first)
}

fn across(picture: &Picture) -> Axis {
    if !picture.places.is_empty() {
        return Axis::of_names(picture.places.len());
    }
    let points = picture.lines.iter().flat_map(|line| &line.points);
    let mut axis = Axis::of(picture.factors[0], points.map(|p| p.x), None);
    axis.ticks = common(&picture.lines).unwrap_or(axis.ticks);
    axis
}

/// As the text of an SVG file.
pub fn draw(picture: &Picture) -> Result<String, Box<dyn std::error::Error>> {
    let (points, count) = (picture.lines.iter().flat_map(|line| &line.points), picture.lines.len() as f64);
    let from = (!picture.factors[1]).then_some(0.0);
    let (x, y) = (across(picture), Axis::of(picture.factors[1], points.flat_map(|p| [p.mean, p.low, p.high]), from));
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (area, side) = root.split_horizontally(LINES);
    let mut builder = ChartBuilder::on(&area);
    builder.caption(&picture.title, ("sans-serif", 19)).margin(12).x_label_area_size(46).y_label_area_size(62);
    let mut chart = builder.build_cartesian_2d(x, y)?;
    let name = |x: &f64| picture.places.get(x.round() as usize).cloned().unwrap_or_else(|| label(*x));
    let number = |y: &f64| label(*y);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(&picture.axes[0]).y_desc(&picture.axes[1]).x_label_formatter(&name).y_label_formatter(&number);
    mesh.label_style(("sans-serif", 15)).axis_desc_style(("sans-serif", 16)).light_line_style(TRANSPARENT).draw()?;
    for ((i, line), colour) in picture.lines.iter().enumerate().zip(COLOURS.iter().cycle()) {
        // Over names the lines stand side by side.
        let aside = if picture.places.is_empty() { 0.0 } else { (i as f64 - (count - 1.0) / 2.0) * 0.5 / count };
        let at = |p: &Point, value| (p.x + aside, value);
        if picture.joined {
            let line = line.points.iter().map(|p| at(p, p.mean));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
        }
        chart.draw_series(line.points.iter().map(|p| Circle::new(at(p, p.mean), 4, colour.filled())))?;
        let bars = line.points.iter().map(|p| vec![at(p, p.low), at(p, p.high)]);
        chart.draw_series(bars.map(|bar| PathElement::new(bar, colour.stroke_width(1))))?;
        let here = 60 + 24 * i as i32;
        side.draw(&PathElement::new(vec![(4, here), (24, here)], colour.stroke_width(2)))?;
        side.draw(&Circle::new((14, here), 4, colour.filled()))?;
        side.draw(&Text::new(line.name.clone(), (32, here - 7), ("sans-serif", 16)))?;
    }
    let note = "bars: least and most of the seeds";
    side.draw(&Text::new(note, (4, 60 + 24 * picture.lines.len() as i32), ("sans-serif", 14)))?;
    root.present()?;
    drop((chart, area, side, root));
    Ok(svg)
}
