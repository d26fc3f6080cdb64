//! Token files, segments, and reading ahead.

use std::collections::BTreeMap;
use wgrad::data::{Bytes, Position, Prefetch, Segments, TokenFile, TokenWriter, Tokenizer, Width};

/// A folder that is gone at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("wgrad-data-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    /// Tokens 0 to n - 1.
    fn counted(&self, n: u32) -> TokenFile {
        let mut file = TokenWriter::create(self.file("counted"), Width::U32).expect("a file");
        file.write(&(0..n).collect::<Vec<u32>>()).expect("they fit");
        file.finish().expect("a file")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn tokens_survive_every_width() {
    let folder = Folder::new("widths");
    for (width, top) in [(Width::U8, 255), (Width::U16, 65_535), (Width::U32, u32::MAX)] {
        let mut file = TokenWriter::create(folder.file("a"), width).expect("a file");
        file.write(&[0, 1]).expect("they fit");
        file.write(&[top, 7]).expect("they fit");
        if top < u32::MAX {
            let error = file.write(&[3, top + 1]).expect_err("too large").to_string();
            assert!(error.contains("choose a larger width"), "{error}");
        }
        let file = file.finish().expect("a file");
        let mut out = vec![9];
        file.read(1..4, &mut out).expect("it is there");
        assert_eq!((file.len(), out), (4, vec![9, 1, top, 7]));
        assert!(file.read(2..5, &mut Vec::new()).is_err());
    }
    assert_eq!([256, 257, 65_536, 65_537].map(Width::of), [Width::U8, Width::U16, Width::U16, Width::U32]);
    std::fs::write(folder.file("odd"), [1, 2, 3]).expect("a file");
    assert!(TokenFile::open(folder.file("odd"), Width::U16).is_err_and(|e| e.to_string().contains("no whole tokens")));
    assert!(TokenFile::open(folder.file("none"), Width::U8).is_err());
    // A file that shrinks is an error, not the end of the program.
    std::fs::write(folder.file("shrinks"), [7; 100]).expect("a file");
    let file = TokenFile::open(folder.file("shrinks"), Width::U8).expect("a file");
    std::fs::write(folder.file("shrinks"), [7; 10]).expect("a file");
    assert!(file.read(50..60, &mut Vec::new()).is_err());
}

/// What is being written disturbs no reader of the old file, and is never taken for a whole one.
#[test]
fn a_token_file_is_there_whole_or_not_at_all() {
    let folder = Folder::new("whole");
    let count = || std::fs::read_dir(&folder.0).expect("the folder").count();
    let path = folder.file("tokens");
    let mut file = TokenWriter::create(&path, Width::U8).expect("a file");
    file.write(&vec![1; 100_000]).expect("they fit");
    assert!(!path.exists() && count() == 1, "it has no name yet");
    drop(file);
    assert_eq!(count(), 0, "nothing is left behind");
    let mut file = TokenWriter::create(&path, Width::U8).expect("a file");
    file.write(&vec![1; 100_000]).expect("they fit");
    file.finish().expect("a file");
    let old = TokenFile::map(&path, Width::U8).expect("it is there");
    let mut file = TokenWriter::create(&path, Width::U8).expect("a file");
    file.write(&[2; 10]).expect("they fit");
    let mut last = Vec::new();
    old.read(99_999..100_000, &mut last).expect("the old file is whole");
    assert_eq!(file.finish().expect("a file").len(), 10);
    old.read(99_999..100_000, &mut last).expect("it is there as long as somebody reads it");
    assert_eq!(last, [1, 1]);
    assert_eq!((TokenFile::open(&path, Width::U8).expect("the new one").len(), count()), (10, 1));
}

#[test]
fn a_map_reads_what_the_file_has() {
    let folder = Folder::new("map");
    let read = folder.counted(1000);
    let path = folder.file("counted");
    let mapped = TokenFile::map(&path, Width::U32).expect("a file");
    let memory = TokenFile::in_memory(std::fs::read(&path).expect("a file"), Width::U32).expect("whole tokens");
    for range in [0..0, 0..1000, 7..9, 999..1000, 1000..1000] {
        let all = [&read, &mapped, &memory].map(|file| {
            let mut out = Vec::new();
            file.read(range.clone(), &mut out).expect("it is there");
            out
        });
        assert!(all[0] == all[1] && all[0] == all[2] && all[0].len() as u64 == range.end - range.start);
    }
    for file in [&mapped, &memory] {
        assert_eq!(file.len(), 1000);
        assert!(file.read(999..1001, &mut Vec::new()).is_err());
    }
    // Another file of that name leaves the open one alone.
    std::fs::write(folder.file("new"), [0; 8]).expect("a file");
    std::fs::rename(folder.file("new"), &path).expect("a file");
    let mut out = Vec::new();
    mapped.read(998..1000, &mut out).expect("it is there");
    assert_eq!(out, [998, 999]);
    std::fs::write(folder.file("odd"), [1, 2, 3]).expect("a file");
    assert!(TokenFile::map(folder.file("odd"), Width::U16).is_err_and(|e| e.to_string().contains("no whole tokens")));
    assert!(TokenFile::map(folder.file("none"), Width::U8).is_err());
    assert!(TokenFile::in_memory(vec![1, 2, 3], Width::U16).is_err());
    std::fs::write(folder.file("empty"), []).expect("a file");
    assert!(TokenFile::map(folder.file("empty"), Width::U8).expect("no token").is_empty());
}

#[test]
fn skipping_is_reading_on() {
    let folder = Folder::new("skip");
    let segments = Segments::new(folder.counted(101), 8, 5).expect("long enough");
    for batches in [0, 1, 4, 5, 13, 40] {
        let mut read = segments.clone();
        for _ in 0..batches {
            read.next(3).expect("a batch");
        }
        let mut skipped = segments.clone().skip(3 * batches);
        assert!((read.epochs() - skipped.epochs()).abs() < 1e-9);
        assert_eq!(read.next(3).expect("a batch"), skipped.next(3).expect("a batch"), "{batches}");
    }
}

#[test]
fn texts_become_tokens_line_by_line() {
    let folder = Folder::new("texts");
    let text = "Grüße,\nthree lines\nno end";
    std::fs::write(folder.file("text"), text).expect("a file");
    let mut file = TokenWriter::create(folder.file("tokens"), Width::of(Bytes.vocabulary())).expect("a file");
    assert_eq!(file.tokenize(folder.file("text"), &Bytes).expect("a text"), text.len() as u64);
    let file = file.finish().expect("a file");
    let mut tokens = Vec::new();
    file.read(0..file.len(), &mut tokens).expect("all of it");
    assert_eq!(Bytes.decode(&tokens).expect("a text"), text);
    assert_eq!(Bytes.decode(&[72, 105, 999]).expect("a text"), "Hi\u{fffd}");
}

/// Rows of the next batches.
fn rows(segments: &mut Segments, batch: usize, batches: usize) -> Vec<Vec<u32>> {
    let length = |t: &wgrad::Tensor| t.shape()[1];
    let tensors: Vec<_> = (0..batches).map(|_| segments.next(batch).expect("a batch")).collect();
    tensors.iter().flat_map(|t| t.ints().chunks(length(t)).map(<[u32]>::to_vec)).collect()
}

#[test]
fn a_pass_predicts_every_token_once() {
    let folder = Folder::new("passes");
    let file = folder.counted(1003);
    let mut segments = Segments::new(file, 11, 3).expect("segments");
    let mut orders = Vec::new();
    for epoch in 0..3 {
        assert_eq!((segments.position().epoch, segments.position().segment), (epoch, 0));
        let n = segments.per_epoch() as usize;
        let all = rows(&mut segments, 1, n);
        let mut predicted: BTreeMap<u32, u32> = BTreeMap::new();
        for row in &all {
            assert!(row.windows(2).all(|w| w[1] == w[0] + 1), "{row:?}");
            row[1..].iter().for_each(|t| *predicted.entry(*t).or_default() += 1);
        }
        assert!(predicted.values().all(|count| *count == 1));
        // Less than a segment at either end is left out.
        assert!(predicted.len() > 1003 - 2 * 11, "{}", predicted.len());
        orders.push(all);
        assert!((segments.epochs() - (epoch + 1) as f64).abs() < 1e-9);
        if epoch < 2 {
            // The pass ends with the first batch of the next.
            let position = segments.position();
            assert_eq!(position, Position { epoch, segment: n as u64 });
            segments = segments.seek(Position { epoch: epoch + 1, segment: 0 });
        }
    }
    assert_ne!(orders[0], orders[1]);
    assert!(orders[0].windows(2).any(|w| w[1] < w[0]), "shuffled");
}

#[test]
fn a_resumed_run_reads_on_and_parts_make_a_whole() {
    let folder = Folder::new("resumed");
    let file = folder.counted(200);
    let segments = || Segments::new(file.clone(), 8, 1).expect("segments");
    // Over the end of several passes.
    let (mut whole, mut first) = (segments(), segments());
    let all = rows(&mut whole, 6, 20);
    let begin = rows(&mut first, 6, 7);
    let text = serde_json::to_string(&first.position()).expect("JSON");
    let position: Position = serde_json::from_str(&text).expect("the same");
    let rest = rows(&mut segments().seek(position), 6, 13);
    assert_eq!(all, [begin, rest].concat());
    assert!(whole.position().epoch >= 3);
    assert_ne!(all, rows(&mut Segments::new(file.clone(), 8, 2).expect("segments"), 6, 20), "another seed");
    let mut parts: Vec<Segments> = (0..3).map(|r| segments().part(r, 3).expect("a part")).collect();
    let mut joined = Vec::new();
    for _ in 0..20 {
        parts.iter_mut().for_each(|part| joined.extend(rows(part, 2, 1)));
    }
    assert_eq!(all, joined);
    assert!(segments().part(3, 3).is_err());
    for length in [0, 1, 201] {
        assert!(Segments::new(file.clone(), length, 0).is_err(), "{length}");
    }
}

#[test]
fn reading_ahead_changes_nothing() {
    let folder = Folder::new("ahead");
    let file = folder.counted(300);
    let segments = || Segments::new(file.clone(), 9, 4).expect("segments");
    let (mut plain, mut ahead) = (segments(), Prefetch::new(segments(), 5, 3).expect("a thread"));
    for _ in 0..20 {
        let batch = ahead.next().expect("a batch");
        assert_eq!(batch, plain.next(5).expect("a batch"));
        assert_eq!(ahead.position(), plain.position());
    }
    drop(ahead);
    // An error comes in its turn, and then there is nothing more.
    let short = folder.file("short");
    std::fs::write(&short, vec![1; 400]).expect("a file");
    let segments = Segments::new(TokenFile::open(&short, Width::U8).expect("a file"), 100, 0).expect("segments");
    std::fs::write(&short, vec![1; 4]).expect("a file");
    let mut ahead = Prefetch::new(segments, 2, 2).expect("a thread");
    assert!(ahead.next().is_err());
    assert!(ahead.next().is_err_and(|e| e.to_string().contains("ended with an error")));
}

#[cfg(feature = "tokenizers")]
#[test]
fn tokenizers_of_hugging_face() {
    use wgrad::data::HfTokenizer;
    let folder = Folder::new("tokenizers");
    let path = folder.file("tokenizer.json");
    let words = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"memory":1,"and":2,"routing":3},"unk_token":"[UNK]"}}"#;
    std::fs::write(&path, words).expect("a file");
    let tokenizer = HfTokenizer::open(&path).expect("a tokenizer");
    assert_eq!(tokenizer.vocabulary(), 4);
    assert_eq!(tokenizer.encode("memory and unknown routing").expect("tokens"), [1, 2, 0, 3]);
    assert_eq!(tokenizer.decode(&[3, 1]).expect("a text"), "routing memory");
    std::fs::write(folder.file("text"), "memory and\nrouting\n").expect("a file");
    let mut file = TokenWriter::create(folder.file("tokens"), Width::of(tokenizer.vocabulary())).expect("a file");
    assert_eq!(file.tokenize(folder.file("text"), &tokenizer).expect("a text"), 3);
    assert!(HfTokenizer::open(folder.file("text")).is_err());
}
