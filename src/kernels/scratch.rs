//! Room for values in between, kept from one piece of work to the next: new memory comes from the system page by page.

use std::cell::Cell;

thread_local! {
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with `n` elements of this thread's own, whatever they hold.
pub fn with<R>(n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut room = ROOM.take();
    if room.len() < n {
        room.resize(n, 0.0);
    }
    let result = f(&mut room[..n]);
    ROOM.set(room);
    result
}
