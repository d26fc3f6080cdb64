//! Memory maps: a safe door to the `memmap2` crate.

use std::fs::File;
use std::sync::Arc;

/// A file whose bytes are read where the system's page cache has them. Clones share the map.
#[derive(Clone, Debug)]
pub(super) struct Map(Arc<memmap2::Mmap>);

impl Map {
    /// Maps a whole file for reading.
    pub fn new(file: &File) -> std::io::Result<Map> {
        // SAFETY: the map is private to this type, only read, and its bytes are of a type without invalid values; they are
        // copied out before anything is derived from them. What Rust cannot rule out is that somebody changes the file
        // meanwhile: then a copy may hold old bytes, new ones, or some of both, and bytes beyond a new, nearer end make the
        // system end the program. That is the documented price of `TokenFile::map`, which says how to do without.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Map(Arc::new(map)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
