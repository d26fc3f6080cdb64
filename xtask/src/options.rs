//! `docs/guide/src/options.md`: every module and option of the models, from the words that stand in the code.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::floors::visit;
use crate::run;

const PAGE: &str = "docs/guide/src/options.md";

/// A system: its name, its folder or file below `src/`, its modules, and its options.
type System = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const SYSTEMS: &[System] = &[
    (
        "Infini-attention",
        "models/infini",
        &["InfiniTransformer", "CausalAttention", "FastweightMemory", "StreamPlans", "InfiniStream"],
        &["InfiniConfig", "MemoryPath", "EnhancedRecurrence", "SegmentLoss"],
    ),
    (
        "CoLT5",
        "models/conditional",
        &[
            "ConditionalRoutedFeedForward",
            "ConditionalRoutedAttention",
            "ConditionalRoutedAutoregressiveAttention",
            "ConditionalRoutedCrossAttention",
            "ConditionalRoutedImageAttention",
            "ConditionalRoutedTransformerBlock",
            "ConditionalRoutedViT",
            "RoutedDecoder",
            "CoordinateDescentRouter",
            "CumulativeSoftmaxRouter",
            "SinkhornRouter",
            "HeavyAttention",
            "RoutedStreamPlans",
            "RoutedStream",
        ],
        &[
            "FeedForwardConfig",
            "AttentionConfig",
            "AttentionRoute",
            "AutoregressiveConfig",
            "AutoregressiveRoute",
            "CrossAttentionConfig",
            "CrossRoute",
            "ImageAttentionConfig",
            "BlockConfig",
            "BlockRoute",
            "ViTConfig",
            "RoutedDecoderConfig",
            "RouterConfig",
            "CoordinateDescentRouterConfig",
            "Similarity",
            "SourceAttention",
            "CumulativeSoftmaxRouterConfig",
            "SinkhornRouterConfig",
            "Route",
            "HeavyAttentionConfig",
            "DescentKeys",
            "Context",
        ],
    ),
    ("Soft top-k", "ops/route/soft_top_k", &[], &["SoftTopK", "Start", "DifferentiableTopK"]),
    (
        "Product-key memory",
        "models/product_key",
        &["ProductKeyMemory", "PkmTransformer", "SlotUsage", "PkmStreamPlans", "PkmStream"],
        &["ProductKeyConfig", "KeyScore", "Lookup", "NoiseScale", "PkmTransformerConfig"],
    ),
    (
        "Block recurrence",
        "models/recurrent",
        &[
            "BlockRecurrentTransformer",
            "AttentionBlock",
            "StateContainer",
            "FeedForward",
            "Compression",
            "RecurrentTrainerWrapper",
            "RecurrentStreamPlans",
            "RecurrentStream",
        ],
        &[
            "BlockRecurrentConfig",
            "Lookback",
            "GateKind",
            "GateConfiguration",
            "LongMemoryLayers",
            "AttentionBlockConfig",
            "StateContainerConfig",
        ],
    ),
    ("Routed long memory", "models/long_memory", &["RoutedMemory", "LongMemory"], &["RoutedMemoryConfig", "Lookback"]),
    (
        "All in one model",
        "models/mix",
        &["MemoryTransformer", "MemoryStreamPlans", "MemoryStream"],
        &["MemoryConfig", "LayerConfig", "AttentionKind", "FeedForwardKind", "LongMemoryConfig"],
    ),
];

/// What is documented: its name, its type where it has one, and the words.
struct Entry {
    name: String,
    kind: String,
    words: String,
}

/// Words of the documentation as they read outside it: no links to items, nothing that ends a cell.
fn plain(words: &str) -> String {
    let mut text = words.replace("[`", "`").replace('|', "\\|");
    while let Some(at) = text.find("`]") {
        let rest = &text[at + 2..];
        let link = if rest.starts_with('(') { rest.find(')').map_or(0, |end| end + 1) } else { 0 };
        text.replace_range(at..at + 2 + link, "`");
    }
    text
}

/// The first sentence.
fn sentence(words: &str) -> &str {
    words.split_once(". ").map_or(words, |(first, _)| first).trim_end_matches('.')
}

/// The words of a type and of what it consists of, if the text defines it.
fn read(text: &str, name: &str) -> Option<(String, Vec<Entry>)> {
    let begins = |line: &str| {
        let rest =
            line.strip_prefix("pub struct ").or(line.strip_prefix("pub enum ")).and_then(|l| l.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with([' ', '<', ';', '(']))
    };
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| begins(line))?;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    let mut head: Vec<&str> = above.filter_map(|line| line.strip_prefix("///")).map(str::trim).collect();
    head.reverse();
    let head: Vec<&str> = head.into_iter().take_while(|line| !line.is_empty()).collect();
    let (mut entries, mut words, mut within) = (Vec::new(), Vec::new(), String::new());
    for line in lines[at + 1..].iter().take_while(|line| **line != "}").filter(|_| lines[at].ends_with('{')) {
        let (code, deep) = (line.trim(), line.starts_with("        "));
        if let Some(more) = code.strip_prefix("///") {
            words.push(more.trim());
        } else if code.starts_with("#[") || code.starts_with('}') {
        } else {
            let code = code.trim_end_matches([',', '{', ' ']);
            let field = code.strip_prefix("pub ").or(deep.then_some(code)).and_then(|field| field.split_once(": "));
            let (name, kind) = field.unwrap_or((code.split('(').next().unwrap_or(code), ""));
            within = if deep { within } else { name.to_owned() };
            let name = if deep { format!("{within}.{name}") } else { name.to_owned() };
            let words = plain(&std::mem::take(&mut words).join(" "));
            entries.extend((!words.is_empty()).then(|| Entry { name, kind: kind.to_owned(), words }));
        }
    }
    Some((plain(&head.join(" ")), entries))
}

/// The text of a system's files.
fn source(folder: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    visit(&run::root().join("src").join(folder), &mut |file| {
        texts.push(fs::read_to_string(file)?);
        Ok(())
    })?;
    texts.sort();
    Ok(texts)
}

fn section((title, folder, modules, options): &System) -> Result<String> {
    let texts = source(folder)?;
    let find = |name: &str| {
        texts.iter().find_map(|text| read(text, name)).with_context(|| format!("no {name} in src/{folder}"))
    };
    let mut page = format!("\n## {title}\n");
    if !modules.is_empty() {
        page += "\n| module | what it is |\n|---|---|\n";
    }
    for name in *modules {
        page += &format!("| `{name}` | {} |\n", sentence(&find(name)?.0));
    }
    for name in *options {
        let (head, entries) = find(name)?;
        page += &format!("\n### `{name}`\n\n{head}\n\n| option | type | meaning |\n|---|---|---|\n");
        for Entry { name, kind, words } in entries {
            let kind = if kind.is_empty() { String::new() } else { format!("`{kind}`") };
            page += &format!("| `{name}` | {kind} | {words} |\n");
        }
    }
    Ok(page)
}

/// Writes the page.
pub fn write() -> Result<()> {
    let mut page = "# Every module and option\n\nThe names are those of `wgrad::models` and `wgrad::ops::route`; defaults and shapes \
                    stand in the documentation of each. `cargo xtask options` writes this page from there.\n"
        .to_owned();
    for system in SYSTEMS {
        page += &section(system)?;
    }
    fs::write(run::root().join(PAGE), page)?;
    println!("wrote {PAGE}");
    Ok(())
}

/// Whether the page names every option there is, and every kind of options is on it.
pub fn check() -> Result<()> {
    let page = fs::read_to_string(run::root().join(PAGE)).context("run `cargo xtask options`")?;
    for system in SYSTEMS {
        let there = section(system)?;
        let names = there.lines().filter_map(|line| line.strip_prefix("| `").or(line.strip_prefix("### `")));
        for name in names.filter_map(|line| line.split('`').next()) {
            ensure!(page.contains(&format!("`{name}`")), "{PAGE} lacks `{name}`: run `cargo xtask options`");
        }
    }
    for text in source("models")? {
        let configs = text.lines().filter_map(|line| line.strip_prefix("pub struct "));
        for name in configs.filter_map(|line| line.split([' ', '<']).next()).filter(|name| name.ends_with("Config")) {
            ensure!(page.contains(&format!("### `{name}`")), "{PAGE} lacks {name}: put it into xtask/src/options.rs");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{plain, read};

    #[test]
    fn fields_and_variants_are_read() {
        let text = "/// Options of [`A`](super::A).\n///\n/// More.\n#[derive(Clone)]\npub enum B {\n    /// One | two.\n    C,\n    \
                    /// Three.\n    D {\n        /// Four.\n        e: usize,\n    },\n}\n";
        let (head, entries) = read(text, "B").unwrap();
        assert_eq!(head, "Options of `A`.");
        let entries: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.kind.as_str(), e.words.as_str())).collect();
        assert_eq!(entries, [("C", "", "One \\| two."), ("D", "", "Three."), ("D.e", "usize", "Four.")]);
        assert!(read(text, "C").is_none());
        assert_eq!(plain("x"), "x");
    }
}
