//! The lower part of the picture: how many slots are read how often.

use crate::picture::{BARS, BARS_TOP, GAP, LEFT, Panel, SIDE, fill};
use crate::svg::{rect, text};

/// Colours of the two series of the histogram.
const SERIES: [&str; 2] = ["#9aa7b8", "#c4512d"];

pub fn histogram(svg: &mut String, panels: &[Panel<'_>; 2]) {
    let counts = panels.each_ref().map(|p| p.usage.histogram());
    let bins = counts.iter().map(Vec::len).max().unwrap_or(1);
    let tallest = counts.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    let wide = 2.0 * SIDE + GAP;
    text(svg, LEFT, BARS_TOP - 38.0, "font-size=\"16\" font-weight=\"bold\"", "How often a slot is read");
    for (i, panel) in panels.iter().enumerate() {
        let x = LEFT + wide - 270.0 + 130.0 * i as f64;
        rect(svg, [x, BARS_TOP - 49.0, 12.0, 12.0], &fill(SERIES[i]));
        text(svg, x + 18.0, BARS_TOP - 38.0, "", &panel.title);
    }
    let each = wide / bins as f64;
    for bin in 0..bins {
        let left = LEFT + bin as f64 * each;
        for (i, counts) in counts.iter().enumerate() {
            let count = counts.get(bin).copied().unwrap_or(0);
            let height = BARS * count as f64 / tallest;
            let (x, width) = (left + each * (0.12 + 0.38 * i as f64), each * 0.36);
            rect(svg, [x, BARS_TOP + BARS - height, width, height], &fill(SERIES[i]));
            let style = "text-anchor=\"middle\" font-size=\"11\" fill=\"#555\"";
            text(svg, x + width / 2.0, BARS_TOP + BARS - height - 4.0, style, &count.to_string());
        }
        let label = ((1usize << bin) / 2).to_string();
        text(svg, left + each / 2.0, BARS_TOP + BARS + 18.0, "text-anchor=\"middle\" font-size=\"12\"", &label);
    }
    rect(svg, [LEFT, BARS_TOP + BARS, wide, 1.0], &fill("#444"));
    let below = "text-anchor=\"middle\"";
    text(svg, LEFT + wide / 2.0, BARS_TOP + BARS + 42.0, below, "hits of a slot over all counted bytes, from … on");
    let (x, y) = (LEFT - 38.0, BARS_TOP + BARS / 2.0);
    text(svg, x, y, &format!("{below} transform=\"rotate(-90 {x:.1} {y:.1})\""), "number of slots");
}
