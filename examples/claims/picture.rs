//! Lines over a number, with what the seeds differ by as bars.

use super::mean;
use plotters::prelude::*;

/// One line.
pub struct Line {
    pub name: String,
    /// Where on the first axis, and what the seeds measured there.
    pub points: Vec<(f64, Vec<f64>)>,
}

/// Lines and their axes.
pub struct Picture<'a> {
    pub title: &'a str,
    /// What lies along x and y.
    pub axes: [&'a str; 2],
    /// Whether equal steps along x and y are equal factors.
    pub factors: [bool; 2],
    pub lines: &'a [Line],
}

/// Blue, orange, green, purple, yellow, light blue: told apart by the colour-blind (Wong 2011, Nature Methods 8, 441).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A number for a label.
fn label(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 1e6 => format!("{:.3}M", value / 1e6).replace(".000", ""),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 10.0 => format!("{value:.0}"),
        v if v >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.0e}"),
    }
}

impl Picture<'_> {
    /// Place on an axis.
    fn at(&self, axis: usize, value: f64) -> f64 {
        if self.factors[axis] { value.max(1e-30).log2() } else { value }
    }

    fn range(&self, axis: usize, values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
        let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let low = if axis == 1 && !self.factors[1] { low.min(0.0) } else { low };
        let room = (high - low).max(1e-9) * 0.05;
        low - if low == 0.0 { 0.0 } else { room }..high + room
    }

    /// As the text of an SVG file.
    pub fn draw(&self) -> Result<String, Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = self.range(0, points().map(|(x, _)| self.at(0, *x)));
        let y = self.range(1, points().flat_map(|(_, values)| values.iter().map(|v| self.at(1, *v))));
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (720, 400)).into_drawing_area();
            area.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(self.title, ("sans-serif", 16))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(60)
                .build_cartesian_2d(x, y)?;
            let back = |axis: usize, v: f64| label(if self.factors[axis] { v.exp2() } else { v });
            let (across, up) = (|v: &f64| back(0, *v), |v: &f64| back(1, *v));
            let mut mesh = chart.configure_mesh();
            mesh.x_desc(self.axes[0]).y_desc(self.axes[1]).x_label_formatter(&across).y_label_formatter(&up);
            mesh.light_line_style(TRANSPARENT).draw()?;
            for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
                let at = |(x, values): &(f64, Vec<f64>)| (self.at(0, *x), self.at(1, mean(values).0));
                let series = LineSeries::new(line.points.iter().map(at), colour.stroke_width(2));
                let drawn = chart.draw_series(series)?.label(&line.name);
                drawn.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
                chart.draw_series(line.points.iter().map(|point| Circle::new(at(point), 3, colour.filled())))?;
                let bars = line.points.iter().map(|(x, values)| {
                    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
                    let x = self.at(0, *x);
                    PathElement::new(vec![(x, self.at(1, low)), (x, self.at(1, high))], colour.stroke_width(1))
                });
                chart.draw_series(bars)?;
            }
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
            area.present()?;
        }
        Ok(svg)
    }
}
