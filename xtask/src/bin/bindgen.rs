//! `bindgen INPUT.wasm FOLDER [package]`: writes the JavaScript and TypeScript bindings of a wasm module. Those of the npm package
//! are loaded by code of its own, so they do not look for the wasm.

use std::env;

use anyhow::{Context, Result};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let mut args = env::args_os().skip(1);
    let input = args.next().context("usage: bindgen INPUT.wasm FOLDER [package]")?;
    let folder = args.next().context("usage: bindgen INPUT.wasm FOLDER [package]")?;
    let package = args.next().is_some();
    let mut bindgen = Bindgen::new();
    bindgen.input_path(input).out_name("wgrad").typescript(true).web(true)?;
    bindgen.omit_default_module_path(package).remove_producers_section(true).remove_name_section(package);
    bindgen.generate(folder)
}
