//! Bars as SVG: how often ours runs while a peer runs once, or the share of the roofline where there is no peer.

use crate::report::{Row, short};
use std::fmt::Write as _;

const LEFT: f64 = 300.0;
const WIDTH: f64 = 420.0;
const LINE: f64 = 22.0;

struct Bar {
    name: String,
    value: f64,
    text: String,
}

fn bars(rows: &[Row]) -> (Vec<Bar>, &'static str) {
    let peers: Vec<Bar> = rows
        .iter()
        .filter(|row| row.peer.as_deref().is_some_and(|peer| peer != "control"))
        .filter_map(|row| {
            let value = row.ratio?;
            let name = format!("{} {}, {}", row.op, row.shape, row.peer.as_deref()?);
            Some(Bar { name, value, text: format!("{}x", short(value)) })
        })
        .collect();
    if !peers.is_empty() {
        return (peers, "the peer's time over ours (logarithmic); above 1 we are faster");
    }
    let roofline = rows.iter().filter_map(|row| {
        let value = row.roofline_share?;
        let name = format!("{} {}", row.op, row.shape);
        Some(Bar { name, value, text: format!("{:.0} %", 100.0 * value) })
    });
    (roofline.collect(), "share of the roofline")
}

/// `None` where there is nothing to draw.
pub fn chart(rows: &[Row]) -> Option<String> {
    let (bars, title) = bars(rows);
    let ratios = title.starts_with("the peer");
    // Ratios on a scale where 2x and 0.5x are equally far from 1x.
    let scale = |value: f64| if ratios { value.log2() } else { value };
    let most = bars.iter().map(|bar| scale(bar.value)).fold(1.0, f64::max);
    let least = bars.iter().map(|bar| scale(bar.value)).fold(0.0, f64::min);
    if bars.is_empty() || !(most - least).is_finite() {
        return None;
    }
    let x = |value: f64| LEFT + WIDTH * (scale(value) - least) / (most - least);
    let zero = LEFT + WIDTH * -least / (most - least);
    let height = LINE * (bars.len() as f64 + 2.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"{height}\" viewBox=\"0 0 800 {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"800\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"16\" fill=\"#333\">{title}</text>\n"
    );
    for (i, bar) in bars.iter().enumerate() {
        let y = LINE * (i as f64 + 1.2);
        let (from, to) = (zero.min(x(bar.value)), zero.max(x(bar.value)));
        let fill = if ratios && bar.value < 1.0 { "#c2574b" } else { "#3f7cac" };
        let (middle, width) = (y + 0.65 * LINE, (to - from).max(1.0));
        // Writing into a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" fill=\"#333\">{}</text>\n\
             <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\n\
             <text x=\"{:.1}\" y=\"{middle}\" fill=\"#333\">{}</text>",
            LEFT - 8.0,
            bar.name,
            y + 0.15 * LINE,
            0.7 * LINE,
            to + 6.0,
            bar.text
        );
    }
    let _ = write!(
        svg,
        "<line x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"{LINE}\" y2=\"{height}\" stroke=\"#333\"/>\n</svg>\n"
    );
    Some(svg)
}
