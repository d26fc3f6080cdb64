//! What a router did, on the terminal.

use crate::picture::shown;
use crate::routes::Strip;

/// A class of characters, and whether a byte is in it.
type Class = (&'static str, fn(u8) -> bool);
const CLASSES: [Class; 5] = [
    ("lower case", |b| b.is_ascii_lowercase()),
    ("upper case", |b| b.is_ascii_uppercase()),
    ("digits", |b| b.is_ascii_digit()),
    ("white space", |b| b.is_ascii_whitespace()),
    ("others", |b| !b.is_ascii_alphanumeric() && !b.is_ascii_whitespace()),
];

/// Prints the beginning of the text with routed bytes marked, and the share of routed bytes by class.
pub fn show(text: &[u8], strip: &Strip) {
    use std::io::IsTerminal;
    let (on, off) = if std::io::stdout().is_terminal() { ("\x1b[7m", "\x1b[0m") } else { ("[", "]") };
    let routed = strip.routed.iter().filter(|r| **r).count();
    println!("\n== {}: {routed} of {} bytes went to the heavy branch", strip.title, text.len());
    let mut line = String::new();
    let mut inside = false;
    for (byte, routed) in text.iter().zip(&strip.routed).take(400) {
        if *routed != inside {
            line.push_str(if *routed { on } else { off });
            inside = *routed;
        }
        line.push(shown(*byte, '·'));
        if *byte == b'\n' {
            // Marks do not reach over the end of a line.
            line.push_str(if inside { off } else { "" });
            line.push('\n');
            inside = false;
        }
    }
    println!("{line}{}", if inside { off } else { "" });
    for (name, is) in CLASSES {
        let all = text.iter().filter(|b| is(**b)).count();
        let heavy = text.iter().zip(&strip.routed).filter(|(b, r)| is(**b) && **r).count();
        if all > 0 {
            println!("{name:>12}: {:>3.0} % of {all}", 100.0 * heavy as f64 / all as f64);
        }
    }
}
