//! Memory of the machine, and what is held on a device.

use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of states and plans that are alive on one device.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    held: AtomicU64,
}

/// Bytes of a ledger that end with this value.
#[derive(Debug)]
pub(crate) struct Held {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Adds bytes unless that makes more than `limit`; then says how many are held.
    pub fn hold(self: &Arc<Self>, bytes: u64, limit: u64) -> Result<Held, u64> {
        let add = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= limit);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)?;
        Ok(Held { ledger: self.clone(), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ledger.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes from which the machine is asked whether it has them.
const LARGE: u64 = 16 << 20;

/// Refuses what the machine does not have: it would promise it all the same, and end the process that uses it.
pub(crate) fn room(bytes: u64, peak: u64) -> Result<(), Error> {
    if bytes >= LARGE && free().is_some_and(|free| bytes > free) {
        return Err(Error::OutOfMemory { requested: bytes, peak });
    }
    Ok(())
}

/// Bytes that this process can still get, swap included; known on Linux only. A container's limit counts.
#[cfg(target_os = "linux")]
pub(crate) fn free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let machine = kib("MemAvailable")?.saturating_add(kib("SwapFree").unwrap_or(0)).saturating_mul(1024);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn free() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::Ledger;
    use std::sync::Arc;

    #[test]
    fn what_is_dropped_makes_room() {
        let ledger = Arc::new(Ledger::default());
        let first = ledger.hold(60, 100).ok();
        let second = ledger.hold(40, 100).ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(ledger.hold(1, 100).err(), Some(100));
        assert_eq!(ledger.hold(u64::MAX, u64::MAX).err(), Some(100));
        drop(first);
        assert_eq!((ledger.held(), ledger.hold(61, 100).err()), (40, Some(40)));
        assert!(ledger.hold(60, 100).is_ok());
        drop(second);
        assert_eq!(ledger.held(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn something_is_free() {
        assert!(super::free().is_some_and(|bytes| bytes > 1 << 20 && bytes < 1 << 60));
    }
}
