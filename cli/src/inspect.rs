//! `wgrad inspect`.

use anyhow::{Context, Result};
use safetensors::SafeTensors;
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

pub fn run(args: &Args) -> Result<()> {
    let path = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {path}"))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(|| format!("{path} is no safetensors file"))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{path} is damaged"))?;
    let mut all: Vec<_> = tensors.iter().collect();
    all.sort_by(|a, b| a.0.cmp(b.0));
    let numbers: usize = all.iter().map(|(_, t)| t.shape().iter().product::<usize>()).sum();
    let size: u64 = all.iter().map(|(_, t)| t.data().len() as u64).sum();
    // The library's own reader, which is stricter: what it opens, models load.
    let found = Checkpoint::open(&args.file).map(|file| recognise(&file))?;
    if args.json {
        let list: Vec<_> = all
            .iter()
            .map(|(name, t)| {
                let dtype = format!("{:?}", t.dtype());
                serde_json::json!({ "name": name, "dtype": dtype, "shape": t.shape(), "bytes": t.data().len() })
            })
            .collect();
        let model = found.map(|m| serde_json::json!({ "kind": m.kind, "package": m.package, "options": m.options }));
        let all = serde_json::json!({
            "tensors": list, "numbers": numbers, "bytes": size, "metadata": metadata, "model": model,
        });
        println!("{all}");
        return Ok(());
    }
    let wide = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, t) in &all {
        let dtype = format!("{:?}", t.dtype());
        println!(
            "{name:<wide$}  {dtype:<5} {:<22} {:>11}",
            format!("{:?}", t.shape()),
            crate::bytes(t.data().len() as u64)
        );
    }
    println!("{} tensors, {numbers} numbers, {}", all.len(), crate::bytes(size));
    let mut keys: Vec<_> = metadata.iter().collect();
    keys.sort();
    keys.iter().for_each(|(key, value)| println!("metadata {key}: {value}"));
    match found {
        Some(model) => println!("fits: {} ({}) {}", model.kind, model.package, model.options),
        None => println!("fits: no model known here"),
    }
    Ok(())
}
