//! `wgrad inspect`.

use anyhow::Result;
use std::collections::BTreeMap;
use std::path::PathBuf;
use wgrad::models::recognise::recognise;
use wgrad::train::Checkpoint;

#[derive(clap::Args)]
pub struct Args {
    /// The safetensors file
    file: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Only the header is read, however large the file.
pub fn run(args: &Args) -> Result<()> {
    let file = Checkpoint::open(&args.file)?;
    let value = |key: String| file.metadata(&key).map(str::to_owned).map(|value| (key, value));
    let metadata: BTreeMap<String, String> = file.metadata_keys().into_iter().filter_map(value).collect();
    let all: Vec<_> = file.names().into_iter().filter_map(|name| Some((file.stored(&name)?, name))).collect();
    let numbers: usize = all.iter().map(|(stored, _)| stored.shape.numel()).sum();
    let size: u64 = all.iter().map(|(stored, _)| stored.bytes).sum();
    let found = recognise(&file);
    if args.json {
        let list: Vec<_> = all
            .iter()
            .map(|(s, name)| serde_json::json!({ "name": name, "dtype": s.dtype, "shape": s.shape[..], "bytes": s.bytes }))
            .collect();
        let model = found.map(
            |m| serde_json::json!({ "kind": m.kind, "package": m.package, "options": m.options, "guessed": m.guessed }),
        );
        let all = serde_json::json!({
            "tensors": list, "numbers": numbers, "bytes": size, "metadata": metadata, "model": model,
        });
        println!("{all}");
        return Ok(());
    }
    let wide = all.iter().map(|(_, name)| name.len()).max().unwrap_or(0);
    for (stored, name) in &all {
        let shape = format!("{:?}", &stored.shape[..]);
        println!("{name:<wide$}  {:<5} {shape:<22} {:>11}", stored.dtype, crate::bytes(stored.bytes));
    }
    println!("{} tensors, {numbers} numbers, {}", all.len(), crate::bytes(size));
    metadata.iter().for_each(|(key, value)| println!("metadata {key}: {value}"));
    match found {
        Some(model) => {
            println!("fits: {} ({}) {}", model.kind, model.package, model.options);
            if !model.guessed.is_empty() {
                println!("usual values, which no tensor tells: {}", model.guessed.join(", "));
            }
        }
        None => println!("fits: no model known here"),
    }
    Ok(())
}
