//! Batches read in the background.

use super::{Position, Segments};
use crate::error::{Error, Result};
use crate::types::Tensor;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// A thread that reads batches before they are needed, in order. The position is that of what was taken, however far ahead
/// the thread is. Dropping it ends the thread.
pub struct Prefetch {
    batches: Option<Receiver<Result<Read>>>,
    thread: Option<JoinHandle<()>>,
    position: Position,
    epochs: f64,
}

/// A batch, and where reading is after it.
struct Read {
    tensor: Tensor,
    position: Position,
    epochs: f64,
}

impl Prefetch {
    /// Batches of `batch` segments, at most `ahead` of them waiting.
    ///
    /// # Errors
    /// [`Error::Argument`] if the system starts no further thread.
    pub fn new(mut segments: Segments, batch: usize, ahead: usize) -> Result<Prefetch> {
        let (position, epochs) = (segments.position(), segments.epochs());
        let (send, receive) = sync_channel(ahead);
        let work = move || {
            loop {
                let made = segments.next(batch);
                let made = made.map(|tensor| Read { tensor, position: segments.position(), epochs: segments.epochs() });
                let failed = made.is_err();
                if send.send(made).is_err() || failed {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("wgrad prefetch".into()).spawn(work);
        let thread = started.map_err(|e| Error::argument("prefetch", format!("no thread could be started: {e}")))?;
        Ok(Prefetch { batches: Some(receive), thread: Some(thread), position, epochs })
    }

    /// The next batch; waits for it if need be. After an error there are no more.
    ///
    /// # Errors
    /// That of [`Segments::next`]; [`Error::Argument`] when called again after it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Tensor> {
        let received = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        let over = || Error::argument("prefetch", "reading ended with an error before; make another one");
        let Read { tensor, position, epochs } = received.ok_or_else(over)??;
        (self.position, self.epochs) = (position, epochs);
        Ok(tensor)
    }

    /// Where the batch after the one taken last begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Passes over the file up to there, as [`Segments::epochs`]: for a progress bar.
    pub fn epochs(&self) -> f64 {
        self.epochs
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The thread notices at its next batch that nobody listens.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
