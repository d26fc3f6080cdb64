//! The picture: heat maps of hits over pairs of sub-keys, a scale, and a histogram, as SVG.

use std::fmt::Write;
use wgrad::models::product_key::Usage;

/// One heat map.
pub struct Panel<'a> {
    pub title: String,
    /// A line below the title.
    pub note: String,
    pub usage: &'a Usage,
}

/// Side of a heat map, and where the parts stand.
const SIDE: f64 = 360.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 120.0;
const GAP: f64 = 80.0;
const WIDTH: f64 = LEFT + 2.0 * SIDE + GAP + 130.0;
const BARS_TOP: f64 = TOP + SIDE + 130.0;
const BARS: f64 = 150.0;
const HEIGHT: f64 = BARS_TOP + BARS + 90.0;
/// Colours of the two series of the histogram.
const SERIES: [&str; 2] = ["#9aa7b8", "#c4512d"];

/// From never read (almost white) over orange to dark red, by the logarithm of hits.
fn colour(hits: f64, most: f64) -> String {
    const STOPS: [[f64; 3]; 5] =
        [[246.0, 246.0, 244.0], [253.0, 212.0, 158.0], [252.0, 141.0, 89.0], [215.0, 48.0, 31.0], [90.0, 0.0, 10.0]];
    let t = (hits + 1.0).ln() / (most + 1.0).ln().max(1e-9) * (STOPS.len() - 1) as f64;
    let i = (t as usize).min(STOPS.len() - 2);
    let [r, g, b] = [0, 1, 2].map(|c| {
        let (from, to) = (STOPS[i][c], STOPS[i + 1][c]);
        (from + (to - from) * (t - i as f64)).clamp(0.0, 255.0) as u8
    });
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{what}</text>");
}

fn rect(svg: &mut String, [x, y, w, h]: [f64; 4], fill: &str, more: &str) {
    let _ =
        writeln!(svg, "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{fill}\" {more}/>");
}

/// The whole picture.
pub fn draw(panels: &[Panel<'_>; 2], keys: usize) -> String {
    let most = panels.iter().flat_map(|p| &p.usage.hits).fold(1.0, |a: f64, h| a.max(f64::from(*h)));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n"
    );
    rect(&mut svg, [0.0, 0.0, WIDTH, HEIGHT], "white", "");
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
    rect(svg, [left, TOP, SIDE, SIDE], &colour(0.0, most), "");
    for (slot, hits) in panel.usage.hits.iter().enumerate().filter(|(_, h)| **h > 0.0) {
        let (row, column) = (slot / keys, slot % keys);
        let place = [left + column as f64 * cell, TOP + row as f64 * cell, cell + 0.05, cell + 0.05];
        rect(svg, place, &colour(f64::from(*hits), most), "");
    }
    rect(svg, [left, TOP, SIDE, SIDE], "none", "stroke=\"#444\"");
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
        rect(svg, [left, TOP + (1.0 - share) * (SIDE - height), 18.0, height + 0.3], &colour(hits, most), "");
    }
    rect(svg, [left, TOP, 18.0, SIDE], "none", "stroke=\"#444\"");
    let powers = (0..).map(|i| 10f64.powi(i)).take_while(|h| *h < most / 1.5);
    for hits in std::iter::once(0.0).chain(powers).chain([most]) {
        let y = TOP + SIDE * (1.0 - (hits + 1.0).ln() / (most + 1.0).ln());
        text(svg, left + 25.0, y + 5.0, "", &format!("{hits:.0}"));
    }
}

fn histogram(svg: &mut String, panels: &[Panel<'_>; 2]) {
    let counts = panels.each_ref().map(|p| p.usage.histogram());
    let bins = counts.iter().map(Vec::len).max().unwrap_or(1);
    let tallest = counts.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    let wide = 2.0 * SIDE + GAP;
    text(svg, LEFT, BARS_TOP - 38.0, "font-size=\"16\" font-weight=\"bold\"", "How often a slot is read");
    for (i, panel) in panels.iter().enumerate() {
        let x = LEFT + wide - 270.0 + 130.0 * i as f64;
        rect(svg, [x, BARS_TOP - 49.0, 12.0, 12.0], SERIES[i], "");
        text(svg, x + 18.0, BARS_TOP - 38.0, "", &panel.title);
    }
    let each = wide / bins as f64;
    for bin in 0..bins {
        let left = LEFT + bin as f64 * each;
        for (i, counts) in counts.iter().enumerate() {
            let count = counts.get(bin).copied().unwrap_or(0);
            let height = BARS * count as f64 / tallest;
            let (x, width) = (left + each * (0.12 + 0.38 * i as f64), each * 0.36);
            rect(svg, [x, BARS_TOP + BARS - height, width, height], SERIES[i], "");
            let style = "text-anchor=\"middle\" font-size=\"11\" fill=\"#555\"";
            text(svg, x + width / 2.0, BARS_TOP + BARS - height - 4.0, style, &count.to_string());
        }
        let label = ((1usize << bin) / 2).to_string();
        text(svg, left + each / 2.0, BARS_TOP + BARS + 18.0, "text-anchor=\"middle\" font-size=\"12\"", &label);
    }
    rect(svg, [LEFT, BARS_TOP + BARS, wide, 1.0], "#444", "");
    let below = "text-anchor=\"middle\"";
    text(svg, LEFT + wide / 2.0, BARS_TOP + BARS + 42.0, below, "hits of a slot over all counted bytes, from … on");
    let (x, y) = (LEFT - 38.0, BARS_TOP + BARS / 2.0);
    text(svg, x, y, &format!("{below} transform=\"rotate(-90 {x:.1} {y:.1})\""), "number of slots");
}
