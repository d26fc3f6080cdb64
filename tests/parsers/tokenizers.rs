//! `tokenizer.json` of Hugging Face's tokenizers.

use crate::spoil::{bent, misspelt};
use crate::{LITTLE, TIMES, taken};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use wgrad::Error;
use wgrad::data::{HfTokenizer, Tokenizer};

const GOOD: [&str; 3] = [
    r#"{"version":"1.0","truncation":{"max_length":9,"strategy":"LongestFirst","stride":0,"direction":"Right"},
        "padding":null,"added_tokens":[{"id":0,"content":"[UNK]","single_word":false,"lstrip":false,"rstrip":false,
        "normalized":false,"special":true}],"normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Whitespace"},
        "post_processor":null,"decoder":null,"model":{"type":"WordLevel",
        "vocab":{"[UNK]":0,"memory":1,"and":2,"routing":3},"unk_token":"[UNK]"}}"#,
    r###"{"version":"1.0","truncation":null,"padding":{"strategy":{"Fixed":8},"direction":"Right","pad_to_multiple_of":null,
        "pad_id":0,"pad_type_id":0,"pad_token":"a"},"added_tokens":[],"normalizer":{"type":"Sequence","normalizers":
        [{"type":"Replace","pattern":{"Regex":"x+"},"content":"y"},{"type":"Prepend","prepend":"a"}]},
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
        "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
        "fuse_unk":false,"byte_fallback":false,"vocab":{"a":0,"b":1,"ab":2,"c":3,"abc":4},"merges":["a b","ab c"]}}"###,
    r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{"type":"NFC"},
        "pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true},
        "post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],
        "pair":[{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{}},"decoder":{"type":"WordPiece","prefix":"##",
        "cleanup":true},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["_a",-1.0],["b",-2.5]],
        "byte_fallback":false}}"###,
];

/// What the tokenizers crate itself takes beside the file: tables of regular expressions and caches.
const TABLES: usize = 8 << 20;

/// A spoiled file: refused with its path, or a tokenizer that works.
pub fn check(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x746f_6b65);
    let good = GOOD[rng.random_range(0..GOOD.len())];
    let data = match rng.random_range(0..4) {
        0 if seed < 8 => good.as_bytes().to_vec(),
        0 | 1 => bent(&mut rng, good.as_bytes()),
        _ => misspelt(&mut rng, good).into_bytes(),
    };
    let path = std::env::temp_dir().join(format!("wgrad-tokenizer-{}.json", std::process::id()));
    std::fs::write(&path, &data).expect("a file");
    // Printing where a panic came from takes memory of its own.
    let mut panicked = false;
    let most = TIMES * data.len() + LITTLE + TABLES;
    let mut open = || panicked |= uses(seed, &path);
    if taken(&mut open) > most {
        let again = taken(&mut open);
        assert!(panicked || again <= most, "seed {seed}: {again} bytes for a file of {}", data.len());
    }
    let _ = std::fs::remove_file(&path);
}

/// Opens and uses a file; whether the crate panicked at it.
fn uses(seed: u64, path: &Path) -> bool {
    let mut panicked = false;
    let mut note = |error: Option<Error>| panicked |= error.is_some_and(|e| e.to_string().contains("panicked"));
    match HfTokenizer::open(path) {
        Ok(tokenizer) => {
            for text in ["", "memory and routing", "abc \u{e9}\u{1f600} xx"] {
                match tokenizer.encode(text) {
                    Ok(tokens) => note(tokenizer.decode(&tokens).err()),
                    Err(error) => note(Some(error)),
                }
            }
            note(tokenizer.decode(&[0, 3, u32::MAX]).err());
            let _ = tokenizer.vocabulary();
        }
        Err(Error::Io { path: named, message }) => {
            assert_eq!(named, path.display().to_string());
            note(Some(Error::Io { path: named, message }));
        }
        Err(other) => panic!("seed {seed}: {other}"),
    }
    panicked
}
