//! Writing files whole or not at all.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A file that takes the place of another only when it is whole: at every moment either the old or the new one is
/// there. Dropped before [`finish`](Self::finish), it leaves nothing behind.
pub(crate) struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
}

impl NewFile {
    pub fn create(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Error::Io { path: path.display().to_string(), message: "not the name of a file".into() });
        };
        let mut temporary = name.to_owned();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        temporary.push(format!(".{}.{number}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::create(&temporary).map_err(|e| io(path, &e))?;
        Ok(NewFile { path: path.to_owned(), temporary, file: Some(file) })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(|e| io(&self.path, &e)),
            None => Ok(()),
        }
    }

    pub fn finish(mut self) -> Result<()> {
        if let Some(file) = &self.file {
            file.sync_all().map_err(|e| io(&self.path, &e))?;
            std::fs::rename(&self.temporary, &self.path).map_err(|e| io(&self.path, &e))?;
        }
        self.file = None;
        // The new name lasts once the folder is on disk too; not every system can do that.
        #[cfg(unix)]
        if let Some(Ok(folder)) = self.path.parent().filter(|p| !p.as_os_str().is_empty()).map(File::open) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// What a file's error is called here.
pub(crate) fn io(path: &Path, e: &std::io::Error) -> Error {
    Error::Io { path: path.display().to_string(), message: e.to_string() }
}
