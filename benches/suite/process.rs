//! What the operating system counts of this process. Known on Linux only.

use std::fs;

/// Nanoseconds that one task was on a core.
fn scheduled(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok()
}

/// Milliseconds of all threads that are alive.
pub fn cpu_ms() -> Option<f64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        sum += scheduled(&task.path().join("schedstat").to_string_lossy()).unwrap_or(0);
    }
    Some(sum as f64 * 1e-6)
}

/// Milliseconds of this thread.
pub fn thread_ms() -> Option<f64> {
    Some(scheduled("/proc/thread-self/schedstat")? as f64 * 1e-6)
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
    let leap = |y: u64| u64::from(y % 4 == 0 && (y % 100 != 0 || y % 400 == 0));
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
