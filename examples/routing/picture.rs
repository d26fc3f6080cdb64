//! The picture: the text once for every router, each byte on the colour of its score, routed bytes in a frame; as SVG.

use crate::routes::Strip;
use crate::svg::{self, colour, rect, text};

/// Bytes of a line, and the size of a byte's box.
const COLUMNS: usize = 96;
const CELL: [f64; 2] = [9.0, 17.0];
const LEFT: f64 = 40.0;
const TOP: f64 = 110.0;
/// Room above each panel for its title.
const TITLE: f64 = 46.0;
/// The rest of a text is left out.
const LINES: usize = 14;

/// How a byte is shown: control characters and pieces of longer characters as `other`.
pub fn shown(byte: u8, other: char) -> char {
    match byte {
        b' '..=b'~' => char::from(byte),
        b'\n' => '⏎',
        _ => other,
    }
}

/// From pale to dark blue.
const BLUES: [[f64; 3]; 4] = [[247.0, 251.0, 255.0], [198.0, 219.0, 239.0], [66.0, 146.0, 198.0], [8.0, 48.0, 107.0]];

/// Smallest and largest finite score.
fn range(scores: &[f32]) -> [f64; 2] {
    let finite = || scores.iter().filter(|s| s.is_finite()).map(|s| f64::from(*s));
    [finite().fold(f64::MAX, f64::min), finite().fold(f64::MIN, f64::max)]
}

/// The whole picture.
pub fn draw(bytes: &[u8], strips: &[Strip]) -> String {
    let lines = bytes.len().div_ceil(COLUMNS).min(LINES);
    let panel = TITLE + lines as f64 * CELL[1] + 30.0;
    let width = 2.0 * LEFT + COLUMNS as f64 * CELL[0];
    let height = TOP + panel * strips.len() as f64 + 10.0;
    let mut svg = svg::begin(width, height);
    text(
        &mut svg,
        LEFT,
        42.0,
        "font-size=\"21\" font-weight=\"bold\"",
        "Which bytes a router sends to the heavy branch",
    );
    let note = format!("the first {} bytes of the text; ⏎ is the end of a line", bytes.len().min(lines * COLUMNS));
    text(&mut svg, LEFT, 64.0, "fill=\"#555\"", &note);
    legend(&mut svg, width - LEFT - 330.0, 84.0);
    for (i, strip) in strips.iter().enumerate() {
        draw_strip(&mut svg, TOP + panel * i as f64, bytes, strip, lines);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, left: f64, top: f64) {
    text(svg, left, top + 11.0, "text-anchor=\"end\"", "lowest score  ");
    for i in 0..60 {
        let fill = format!("fill=\"{}\"", colour(&BLUES, f64::from(i) / 59.0));
        rect(svg, [left + 6.0 + f64::from(i) * 2.0, top, 2.2, 14.0], &fill);
    }
    text(svg, left + 134.0, top + 11.0, "", "highest");
    rect(svg, [left + 210.0, top, CELL[0] + 3.0, 14.0], "fill=\"none\" stroke=\"#d6410b\" stroke-width=\"1.6\"");
    text(svg, left + 230.0, top + 11.0, "", "in the heavy branch");
}

fn draw_strip(svg: &mut String, top: f64, bytes: &[u8], strip: &Strip, lines: usize) {
    let [low, high] = range(&strip.scores);
    let routed = strip.routed.iter().filter(|r| **r).count();
    text(svg, LEFT, top + 20.0, "font-size=\"16\" font-weight=\"bold\"", &format!("Router: {}", strip.title));
    let note = format!("{routed} of {} bytes routed; scores (cosine × √width) from {low:.2} to {high:.2}", bytes.len());
    text(svg, LEFT, top + 37.0, "fill=\"#555\"", &note);
    let top = top + TITLE;
    let place = |i: usize| [LEFT + (i % COLUMNS) as f64 * CELL[0], top + (i / COLUMNS) as f64 * CELL[1]];
    let shown_bytes = bytes.len().min(lines * COLUMNS);
    for (i, byte) in bytes.iter().take(shown_bytes).enumerate() {
        let [x, y] = place(i);
        let share = (f64::from(strip.scores[i]) - low) / (high - low).max(1e-9);
        rect(svg, [x, y, CELL[0] + 0.1, CELL[1] - 1.0], &format!("fill=\"{}\"", colour(&BLUES, share)));
        let ink = if share > 0.62 { "white" } else { "#222" };
        let style = format!("font-family=\"monospace\" font-size=\"12\" text-anchor=\"middle\" fill=\"{ink}\"");
        if *byte != b' ' {
            text(svg, x + CELL[0] / 2.0, y + 12.0, &style, &shown(*byte, '·').to_string());
        }
    }
    for (i, _) in strip.routed.iter().take(shown_bytes).enumerate().filter(|(_, r)| **r) {
        let [x, y] = place(i);
        let frame = [x + 0.6, y + 0.6, CELL[0] - 1.2, CELL[1] - 2.2];
        rect(svg, frame, "fill=\"none\" stroke=\"#d6410b\" stroke-width=\"1.4\"");
    }
}
