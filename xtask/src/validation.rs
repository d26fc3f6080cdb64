//! Tests under Vulkan's validation layer, which sees what a driver lets pass. Every message is a failure, but for those
//! declared here.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::counts::Counts;
use crate::lab::Lab;
use crate::run;
use crate::summary::{Done, Stop};

const LAYER: &str = "VK_LAYER_KHRONOS_validation";

/// A message that is not ours to mend.
struct Known {
    /// A part of what the layer says of itself, name and version: another one must not say it.
    layer: &'static str,
    /// A part of the message.
    text: &'static str,
    /// Why it is said, and not ours.
    reason: &'static str,
}

/// Each is expected: one that is not said any more is to be taken out.
const KNOWN: &[Known] = &[Known {
    layer: "layer 1.3.239",
    text: "Invalid source language operand: 10",
    reason: "WGSL in the debug information of a test's own instance; the layer of Debian 12 is older than that number",
}];

/// Runs everything under the layer, not only what has a place in every run of the tests.
const EVERYTHING: &str = "WGRAD_VALIDATE_ALL";

/// What is printed, and what is checked beyond the layer's own choice: two accesses without a barrier between them.
const SETTINGS: &str = "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.log_filename = stdout
khronos_validation.report_flags = error,warn
khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
";

/// The messages of one run.
struct Messages<'a> {
    /// Those that are declared for this layer, and how often each came.
    known: Vec<(&'a Known, usize)>,
    unknown: Vec<String>,
}

impl<'a> Messages<'a> {
    fn of(layer: &str, known: &'a [Known]) -> Self {
        let known = known.iter().filter(|k| layer.contains(k.layer)).map(|k| (k, 0)).collect();
        Messages { known, unknown: Vec::new() }
    }

    /// Keeps a line in which the layer objects to something.
    fn read(&mut self, line: &str) {
        if !["Validation Error", "Validation Warning", "Validation Performance Warning"]
            .iter()
            .any(|w| line.contains(w))
        {
            return;
        }
        match self.known.iter_mut().find(|(known, _)| line.contains(known.text)) {
            Some((_, times)) => *times += 1,
            None => self.unknown.push(line.to_owned()),
        }
    }

    /// What is wrong: messages that nobody declared, and declared ones that did not come.
    fn verdict(&self) -> Result<usize> {
        if let Some(first) = self.unknown.first() {
            bail!("{} messages, the first: {first}", self.unknown.len());
        }
        if let Some((gone, _)) = self.known.iter().find(|(_, times)| *times == 0) {
            bail!("\"{}\" is not said any more; take it out of the known messages ({})", gone.text, gone.reason);
        }
        Ok(self.known.iter().map(|(_, times)| times).sum())
    }
}

pub fn step(lab: &Lab) -> Result<Done, Stop> {
    let (gpu, layer) = (lab.gpu()?, lab.validation_layer()?);
    let folder = run::target().join("validation");
    fs::create_dir_all(&folder).context("cannot make target/validation")?;
    fs::write(folder.join("vk_layer_settings.txt"), SETTINGS).context("cannot write the layer's settings")?;
    let watched = |command: &mut Command| {
        gpu.apply(command);
        command.env("VK_INSTANCE_LAYERS", LAYER).env("VK_LAYER_SETTINGS_PATH", &folder);
    };
    sees_a_mistake(watched)?;

    let mut messages = Messages::of(layer, KNOWN);
    let mut counts = Counts::default();
    // Every sample is among the tests of limits.
    let mut programs = vec!["engine"];
    if env::var_os(EVERYTHING).is_some() {
        programs.extend(["kernels", "models", "ops", "parity", "random_programs", "reliability", "training"]);
    }
    for program in programs {
        let mut cargo = run::cargo();
        cargo.args(["test", "--package", "wgrad", "--no-fail-fast", "--test", program]);
        watched(&mut cargo);
        let ended = counts.watch_also(&mut cargo, |line| messages.read(line));
        messages.unknown.iter().for_each(|message| println!("validation: {message}"));
        ended?;
    }
    let known = messages.verdict()?;
    Ok(Done { place: format!("{layer}, {}", gpu.place()), note: format!("{}, {known} known messages", counts.note()?) })
}

/// A layer that was not loaded finds no fault with anything: it must object to a mistake.
fn sees_a_mistake(watched: impl Fn(&mut Command)) -> Result<()> {
    let mut command = run::command(env::current_exe()?);
    command.args(["adapters", "--mistake"]);
    watched(&mut command);
    let mut messages = Messages::of("", &[]);
    run::output(&mut command)?.lines().for_each(|line| messages.read(line));
    if messages.unknown.is_empty() {
        bail!("{LAYER} does not object to an image without a use: it was not loaded");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "VUID-vkCmdDispatch-None-02699(ERROR / SPEC): msgNum: 1 - Validation Error: [ VUID ] x";

    #[test]
    fn objections_are_kept() {
        let mut messages = Messages::of("layer 1", &[]);
        messages.read("test plans::printed_plan ... ok");
        messages.read(SAID);
        assert_eq!(messages.unknown, [SAID]);
        assert!(messages.verdict().is_err());
    }

    #[test]
    fn declared_messages_must_come_from_their_layer() {
        let known = [Known { layer: "layer 1", text: "VUID-vkCmdDispatch-None-02699", reason: "example.org/bug" }];
        let mut messages = Messages::of("a layer 1", &known);
        let gone = messages.verdict().expect_err("it was not said").to_string();
        assert!(gone.contains("not said any more") && gone.contains("example.org/bug"), "{gone}");
        messages.read(SAID);
        messages.read(SAID);
        assert_eq!(messages.verdict().expect("as declared"), 2);
        let mut another = Messages::of("a layer 2", &known);
        assert_eq!(another.verdict().expect("nothing was said"), 0);
        another.read(SAID);
        assert!(another.verdict().is_err());
    }
}
