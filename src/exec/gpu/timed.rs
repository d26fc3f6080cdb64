//! Runs with the device's clock.

use super::GpuPlan;
use crate::device::clock::Clock;
use crate::error::Result;
use crate::exec::Feed;
use std::time::Duration;

impl GpuPlan {
    /// Runs, waits, and returns the time that the device's clock gives; without a clock it only runs.
    pub async fn run_timed(&self, feed: &Feed<'_>) -> Result<Option<Duration>> {
        let Some(clock) = Clock::new(&self.gpu, 1) else {
            self.run(feed)?;
            return Ok(None);
        };
        self.submit(feed, Some(&clock))?;
        let ticks = self.readback.read(&self.gpu, &clock.ticks, 0, clock.bytes()).await?;
        Ok(clock.between(&ticks))
    }

    /// Runs with a pass for each dispatch, waits, and returns start and time of each; `None` without a clock.
    pub async fn profile(&self, feed: &Feed<'_>) -> Result<Option<Vec<(Duration, Duration)>>> {
        let Some(clock) = Clock::new(&self.gpu, self.ready.len().max(1)) else {
            return Ok(None);
        };
        self.submit(feed, Some(&clock))?;
        let ticks = self.readback.read(&self.gpu, &clock.ticks, 0, clock.bytes()).await?;
        let mut spans = clock.spans(&ticks);
        spans.truncate(self.ready.len());
        Ok(Some(spans))
    }
}
