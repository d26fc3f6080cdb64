//! Files and texts of others, spoiled at random: the same for the same seed.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Bytes of any file, spoiled in some places.
pub fn bent(rng: &mut ChaCha8Rng, good: &[u8]) -> Vec<u8> {
    let mut data = good.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..data.len().max(1)).min(data.len().saturating_sub(1));
        match rng.random_range(0..6) {
            _ if data.is_empty() => data.push(rng.random()),
            0 => data[at] ^= 1 << rng.random_range(0..8),
            1 => data[at] = rng.random(),
            2 => data.truncate(at),
            3 => data.insert(at, rng.random()),
            4 => drop(data.drain(at..(at + rng.random_range(1..9)).min(data.len()))),
            _ => {
                let end = (at + rng.random_range(1..40)).min(data.len());
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
        }
    }
    data
}

/// A file with a header that is spoiled as text, and fits its length again.
pub fn reworded(rng: &mut ChaCha8Rng, good: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let header = misspelt(rng, &String::from_utf8_lossy(&good[8..8 + length]));
    let mut data = (header.len() as u64).to_le_bytes().to_vec();
    data.extend(header.as_bytes());
    data.extend(&good[8 + length..]);
    data
}

/// Text with other numbers or words in some places.
pub fn misspelt(rng: &mut ChaCha8Rng, good: &str) -> String {
    const NUMBERS: [&str; 10] = [
        "0",
        "1",
        "3",
        "-1",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "9223372036854775808",
        "1e400",
        "99999999999999999999",
    ];
    const WORDS: [&str; 10] = ["F32", "F16", "I64", "w", "é\u{0}", "[", "}", "\"", "null", "optim.m.w"];
    let mut text = good.to_owned();
    for _ in 0..rng.random_range(1..3) {
        let numbers: Vec<(usize, usize)> = runs(&text, |c| c.is_ascii_digit());
        let words: Vec<(usize, usize)> = runs(&text, |c| c.is_ascii_alphanumeric() || c == '.');
        let (parts, new): (_, &[&str]) = if rng.random() { (numbers, &NUMBERS) } else { (words, &WORDS) };
        if let Some((from, to)) = parts.get(rng.random_range(0..parts.len().max(1))) {
            text.replace_range(from..to, new[rng.random_range(0..new.len())]);
        }
    }
    text
}

/// Where runs of characters begin and end.
fn runs(text: &str, of: impl Fn(char) -> bool) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (i, c) in text.char_indices().filter(|(_, c)| of(*c)) {
        match all.last_mut() {
            Some((_, end)) if *end == i => *end = i + c.len_utf8(),
            _ => all.push((i, i + c.len_utf8())),
        }
    }
    all
}
