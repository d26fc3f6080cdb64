//! The picture: heat maps of hits over pairs of sub-keys, a scale, and a histogram, as SVG.

use crate::histogram::histogram;
use crate::svg::{self, rect, text};
use wgrad::models::product_key::Usage;

/// One heat map.
pub struct Panel<'a> {
    pub title: String,
    /// A line below the title.
    pub note: String,
    pub usage: &'a Usage,
}

/// Side of a heat map, and where the parts stand.
pub const SIDE: f64 = 360.0;
pub const LEFT: f64 = 70.0;
const TOP: f64 = 120.0;
pub const GAP: f64 = 80.0;
const WIDTH: f64 = LEFT + 2.0 * SIDE + GAP + 130.0;
pub const BARS_TOP: f64 = TOP + SIDE + 130.0;
pub const BARS: f64 = 150.0;
const HEIGHT: f64 = BARS_TOP + BARS + 90.0;
const FRAME: &str = "fill=\"none\" stroke=\"#444\"";

pub fn fill(colour: &str) -> String {
    format!("fill=\"{colour}\"")
}

/// From never read (almost white) over orange to dark red, by the logarithm of hits.
fn colour(hits: f64, most: f64) -> String {
    const STOPS: [[f64; 3]; 5] =
        [[246.0, 246.0, 244.0], [253.0, 212.0, 158.0], [252.0, 141.0, 89.0], [215.0, 48.0, 31.0], [90.0, 0.0, 10.0]];
    svg::colour(&STOPS, (hits + 1.0).ln() / (most + 1.0).ln().max(1e-9))
}

/// The whole picture.
pub fn draw(panels: &[Panel<'_>; 2], keys: usize) -> String {
    let most = panels.iter().flat_map(|p| &p.usage.hits).fold(1.0, |a: f64, h| a.max(f64::from(*h)));
    let mut svg = svg::begin(WIDTH, HEIGHT);
    let title = format!("Which of the {} slots of a product-key memory are read", keys * keys);
    text(&mut svg, LEFT, 40.0, "font-size=\"21\" font-weight=\"bold\"", &title);
    for (i, panel) in panels.iter().enumerate() {
        heat_map(&mut svg, LEFT + i as f64 * (SIDE + GAP), panel, keys, most);
    }
    scale(&mut svg, LEFT + 2.0 * SIDE + GAP + 30.0, most);
    histogram(&mut svg, panels);
    svg.push_str("</svg>\n");
    svg
}

fn heat_map(svg: &mut String, left: f64, panel: &Panel<'_>, keys: usize, most: f64) {
    text(svg, left, TOP - 32.0, "font-size=\"16\" font-weight=\"bold\"", &panel.title);
    text(svg, left, TOP - 12.0, "fill=\"#555\"", &panel.note);
    let cell = SIDE / keys as f64;
    rect(svg, [left, TOP, SIDE, SIDE], &fill(&colour(0.0, most)));
    for (slot, hits) in panel.usage.hits.iter().enumerate().filter(|(_, h)| **h > 0.0) {
        let (row, column) = (slot / keys, slot % keys);
        let place = [left + column as f64 * cell, TOP + row as f64 * cell, cell + 0.05, cell + 0.05];
        rect(svg, place, &fill(&colour(f64::from(*hits), most)));
    }
    rect(svg, [left, TOP, SIDE, SIDE], FRAME);
    for (at, key) in [(0.0, 0), (0.5, keys / 2), (1.0, keys - 1)] {
        text(svg, left + at * SIDE, TOP + SIDE + 18.0, "text-anchor=\"middle\"", &key.to_string());
        text(svg, left - 8.0, TOP + at * SIDE + 5.0, "text-anchor=\"end\"", &key.to_string());
    }
    text(svg, left + SIDE / 2.0, TOP + SIDE + 40.0, "text-anchor=\"middle\"", "sub-key of the second half");
    let (x, y) = (left - 38.0, TOP + SIDE / 2.0);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 {x:.1} {y:.1})\"");
    text(svg, x, y, &turned, "sub-key of the first half");
}

fn scale(svg: &mut String, left: f64, most: f64) {
    text(svg, left, TOP - 12.0, "", "hits of a slot");
    let steps = 90;
    for i in 0..steps {
        let share = i as f64 / (steps - 1) as f64;
        let hits = (share * (most + 1.0).ln()).exp() - 1.0;
        let height = SIDE / steps as f64;
        rect(svg, [left, TOP + (1.0 - share) * (SIDE - height), 18.0, height + 0.3], &fill(&colour(hits, most)));
    }
    rect(svg, [left, TOP, 18.0, SIDE], FRAME);
    let powers = (0..).map(|i| 10f64.powi(i)).take_while(|h| *h < most / 1.5);
    for hits in std::iter::once(0.0).chain(powers).chain([most]) {
        let y = TOP + SIDE * (1.0 - (hits + 1.0).ln() / (most + 1.0).ln());
        text(svg, left + 25.0, y + 5.0, "", &format!("{hits:.0}"));
    }
}
