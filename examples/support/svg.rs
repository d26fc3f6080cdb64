//! The few elements that the pictures of the examples are drawn with, as SVG.

use std::fmt::Write;

/// An empty picture on white ground; `</svg>` is to follow.
pub fn begin(width: f64, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n"
    );
    rect(&mut svg, [0.0, 0.0, width, height], "fill=\"white\"");
    svg
}

pub fn text(svg: &mut String, x: f64, y: f64, style: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{what}</text>");
}

/// Left, top, width, height.
pub fn rect(svg: &mut String, [x, y, w, h]: [f64; 4], style: &str) {
    let _ = writeln!(svg, "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" {style}/>");
}

/// The colour at a share from 0 to 1 of the way over the stops.
pub fn colour(stops: &[[f64; 3]], share: f64) -> String {
    let t = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let i = (t as usize).min(stops.len() - 2);
    let [r, g, b] = [0, 1, 2].map(|c| (stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (t - i as f64)) as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}
