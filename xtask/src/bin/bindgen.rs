//! `bindgen INPUT.wasm FOLDER`: writes the JavaScript and TypeScript bindings of a wasm module.

use std::env;

use anyhow::{Context, Result};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let mut args = env::args_os().skip(1);
    let input = args.next().context("usage: bindgen INPUT.wasm FOLDER")?;
    let folder = args.next().context("usage: bindgen INPUT.wasm FOLDER")?;
    let mut bindgen = Bindgen::new();
    bindgen.input_path(input).out_name("wgrad").typescript(true).web(true)?;
    bindgen.omit_default_module_path(false).remove_producers_section(true).generate(folder)
}
