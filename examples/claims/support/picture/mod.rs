//! Lines over a number or over names, with what the seeds differ by as bars. What is drawn is kept as JSON beside the picture.

mod axis;
mod draw;

use serde::{Deserialize, Serialize};

/// Where on the first axis; mean, least and most of what the seeds measured there.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Point {
    pub x: f64,
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

impl Point {
    /// What the seeds measured at x.
    pub fn of(x: f64, values: &[f64]) -> Point {
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        Point { x, mean: values.iter().sum::<f64>() / values.len() as f64, low, high }
    }
}

/// One line.
#[derive(Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    pub points: Vec<Point>,
}

impl Line {
    pub fn new(name: &str, points: impl IntoIterator<Item = Point>) -> Line {
        Line { name: name.to_owned(), points: points.into_iter().collect() }
    }
}

/// Lines and their axes.
#[derive(Serialize, Deserialize)]
pub struct Picture {
    pub title: String,
    /// What lies along x and y.
    pub axes: [String; 2],
    /// Whether equal steps along x and y are equal factors.
    pub factors: [bool; 2],
    /// Names along x, where it has no numbers: that of 0, of 1 and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
    /// Whether points are joined: not where what lies between them means nothing.
    pub joined: bool,
    pub lines: Vec<Line>,
}

impl Picture {
    /// A picture of numbers over numbers.
    pub fn new(title: &str, axes: [&str; 2], factors: [bool; 2], lines: Vec<Line>) -> Picture {
        let (title, axes) = (title.to_owned(), axes.map(str::to_owned));
        Picture { title, axes, factors, places: Vec::new(), joined: true, lines }
    }

    pub fn is_finite(&self) -> bool {
        let points = self.lines.iter().flat_map(|line| &line.points);
        points.flat_map(|p| [p.x, p.mean, p.low, p.high]).all(f64::is_finite)
    }

    /// As the text of a JSON file.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// As the text of an SVG file.
    pub fn draw(&self) -> Result<String, Box<dyn std::error::Error>> {
        draw::draw(self)
    }
}
