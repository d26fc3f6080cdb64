//! Progress for people and machines.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use wgrad::{Error, Result};

/// A progress bar, and a line of JSON a step.
pub struct Report {
    bar: ProgressBar,
    json: Option<(BufWriter<File>, String)>,
    device: String,
    bytes: u64,
    tokens: usize,
    last: Instant,
    /// Running mean of the loss, for people.
    smooth: Option<f64>,
    /// Weights of the running mean so far: what a start from 0 lacks.
    weight: f64,
}

impl Report {
    /// Starts at step `done` of `steps`; a step reads `tokens` tokens. The records of a run that goes on follow those in
    /// the file.
    pub fn new(done: u64, steps: u64, tokens: usize, json: Option<&Path>, device: String, bytes: u64) -> Result<Self> {
        let json = match json {
            Some(path) => {
                let name = path.display().to_string();
                let mut options = OpenOptions::new();
                options.create(true).write(true).append(done > 0).truncate(done == 0);
                let file = options.open(path).map_err(|e| Error::Io { path: name.clone(), message: e.to_string() })?;
                Some((BufWriter::new(file), name))
            }
            None => None,
        };
        let style = ProgressStyle::with_template("{pos:>6}/{len} {wide_bar} {msg} {eta}");
        let bar = ProgressBar::new(steps).with_position(done);
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Ok(Report { bar, json, device, bytes, tokens, last: Instant::now(), smooth: None, weight: 0.0 })
    }

    /// Tells of one finished step, after so many passes over the text.
    pub fn step(&mut self, step: u64, loss: f32, epochs: f64) -> Result<()> {
        let seconds = self.last.elapsed().as_secs_f64().max(1e-9);
        self.last = Instant::now();
        let rate = self.tokens as f64 / seconds;
        // Exponential mean without the pull of its start.
        let sum = 0.95 * self.smooth.unwrap_or_default() * self.weight + 0.05 * f64::from(loss);
        self.weight = 0.95 * self.weight + 0.05;
        let smooth = sum / self.weight;
        self.smooth = Some(smooth);
        let bits = smooth / std::f64::consts::LN_2;
        self.bar.set_position(step);
        self.bar
            .set_message(format!("loss {smooth:.3} nats, {bits:.2} bits/byte, {rate:.0} tokens/s, {epochs:.2} passes"));
        if self.bar.is_hidden() && step.is_multiple_of(20) {
            say!("step {step}: loss {smooth:.3} nats, {bits:.2} bits/byte, {rate:.0} tokens/s");
        }
        if let Some((file, path)) = &mut self.json {
            let line = serde_json::json!({
                "step": step,
                "loss": loss,
                "tokens_per_s": rate,
                "device_bytes": self.bytes,
                "device": self.device,
            });
            let written = writeln!(file, "{line}").and_then(|()| file.flush());
            written.map_err(|e| Error::Io { path: path.clone(), message: e.to_string() })?;
        }
        Ok(())
    }

    /// Says something without disturbing the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| say!("{text}"));
    }

    /// Ends the bar and returns the running mean of the loss.
    pub fn finish(self) -> Option<f64> {
        self.bar.abandon();
        self.smooth
    }
}
