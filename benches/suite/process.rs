//! What the operating system counts of this process: processor time on Unix, memory on Linux.

use std::fs;

#[cfg(unix)]
fn clock(id: rustix::time::ClockId) -> Option<f64> {
    let now = rustix::time::clock_gettime(id);
    Some(1e3 * now.tv_sec as f64 + 1e-6 * now.tv_nsec as f64)
}

/// Milliseconds of all threads.
#[cfg(unix)]
pub fn cpu_ms() -> Option<f64> {
    clock(rustix::time::ClockId::ProcessCPUTime)
}

/// Milliseconds of this thread.
#[cfg(unix)]
pub fn thread_ms() -> Option<f64> {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

#[cfg(not(unix))]
pub fn cpu_ms() -> Option<f64> {
    None
}

#[cfg(not(unix))]
pub fn thread_ms() -> Option<f64> {
    None
}

fn status(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

/// Memory beyond what was there at the start.
pub struct Peak {
    start: Option<f64>,
}

impl Peak {
    pub fn start() -> Peak {
        // The kernel's mark of the most begins anew; where it may not be set, it stands for all of the process's life.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Peak { start: status("VmRSS") }
    }

    /// MiB beyond the start, at the most.
    pub fn mib(&self) -> Option<f64> {
        Some((status("VmHWM")? - self.start?).max(0.0))
    }
}

/// Processor, cores, memory and system in words.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(std::env::consts::ARCH);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
        Some(format!(", {} GiB", line.parse::<f64>().ok()?.max(0.0) as u64 >> 20))
    });
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{model}, {cores} cores{}, {}", memory.unwrap_or_default(), std::env::consts::OS)
}

/// Today, from the system's clock.
pub fn date() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (mut days, mut year) = (seconds / 86_400, 1970);
    let leap = |y: u64| u64::from(y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400)));
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}
