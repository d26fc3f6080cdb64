//! `book FOLDER`: builds the book in a folder, where its `book.toml` says.

use std::env;

use anyhow::{Context, Result};
use mdbook_driver::MDBook;

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).context("usage: book FOLDER")?;
    let book = MDBook::load(&folder)?;
    book.build()?;
    println!("{}", book.build_dir_for("html").display());
    Ok(())
}
