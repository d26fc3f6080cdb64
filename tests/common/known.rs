//! Failures of drivers that are known. They are expected, and noticed when they are gone.

use wgrad::Device;

/// Something that fails on an adapter by the driver's fault.
pub struct Known {
    /// Part of what the device prints about itself: adapter, backend, driver and its version.
    pub adapter: &'static str,
    /// What fails: the name of an operation's sample, `seed N` of a random program, or what a test calls it.
    pub what: &'static str,
    /// What the driver does wrong, and where that is reported.
    pub reason: &'static str,
}

/// What tests call their outcomes, where it is neither a sample nor the seed of a random program.
pub const CALLED: &[&str] = &["an allocation that fails"];

/// All of them.
pub const KNOWN: &[Known] = &[Known {
    adapter: "llvmpipe",
    what: "an allocation that fails",
    reason: "lavapipe of Mesa 25.0 does not look whether the mmap behind a memory object failed: vkAllocateMemory succeeds",
}];

/// Failures among named outcomes, `None` for a pass: those that nobody declared, and passes of what is declared to fail.
pub fn failures(device: &Device, outcomes: impl IntoIterator<Item = (String, Option<String>)>) -> Vec<String> {
    failures_but(KNOWN, &device.to_string(), outcomes)
}

/// [`failures`] with a table.
pub fn failures_but(
    known: &[Known],
    place: &str,
    outcomes: impl IntoIterator<Item = (String, Option<String>)>,
) -> Vec<String> {
    let settle = |(name, failure): (String, Option<String>)| {
        let declared = known.iter().find(|k| place.contains(k.adapter) && k.what == name);
        match (failure, declared) {
            (None, None) => None,
            (Some(failure), None) => Some(failure),
            (Some(failure), Some(known)) => {
                println!("{name} fails as known ({}): {failure}", known.reason);
                None
            }
            (None, Some(known)) => {
                Some(format!("{name} passes on {place}; take it out of the known failures ({})", known.reason))
            }
        }
    };
    outcomes.into_iter().filter_map(settle).collect()
}
