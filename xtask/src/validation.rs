//! Tests under Vulkan's validation layer, which sees what a driver lets pass. Every message is a failure, but for those
//! declared here.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::counts::Counts;
use crate::lab::Lab;
use crate::run;
use crate::summary::{Done, Stop};

const LAYER: &str = "VK_LAYER_KHRONOS_validation";

/// Messages that are not ours to mend: a part of the text, and the reason.
const KNOWN: &[(&str, &str)] = &[(
    "Invalid source language operand: 10",
    "WGSL in the debug information of a test's own instance; the layer of Debian 12 is older than that number",
)];

/// What is printed, and what is checked beyond the layer's own choice: two accesses without a barrier between them.
const SETTINGS: &str = "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.log_filename = stdout
khronos_validation.report_flags = error,warn
khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
";

/// The messages of one run.
#[derive(Default)]
struct Messages {
    known: usize,
    unknown: Vec<String>,
}

impl Messages {
    /// Keeps a line in which the layer objects to something.
    fn read(&mut self, line: &str) {
        if !["Validation Error", "Validation Warning", "Validation Performance Warning"]
            .iter()
            .any(|w| line.contains(w))
        {
            return;
        }
        match KNOWN.iter().any(|(part, _)| line.contains(part)) {
            true => self.known += 1,
            false => self.unknown.push(line.to_owned()),
        }
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

    let mut messages = Messages::default();
    let mut counts = Counts::default();
    let mut cargo = run::cargo();
    cargo.args(["test", "--package", "wgrad", "--no-fail-fast", "--test", "engine"]);
    watched(&mut cargo);
    let ended = counts.watch_also(&mut cargo, |line| messages.read(line));
    messages.unknown.iter().for_each(|message| println!("validation: {message}"));
    ended?;
    if let Some(first) = messages.unknown.first() {
        return Err(anyhow!("{} messages, the first: {first}", messages.unknown.len()).into());
    }
    let note = format!("{}, {} known messages", counts.note()?, messages.known);
    Ok(Done { place: format!("{layer}, {}", gpu.place()), note })
}

/// A layer that was not loaded finds no fault with anything: it must object to a mistake.
fn sees_a_mistake(watched: impl Fn(&mut Command)) -> Result<()> {
    let mut command = run::command(env::current_exe()?);
    command.args(["adapters", "--mistake"]);
    watched(&mut command);
    let mut messages = Messages::default();
    run::output(&mut command)?.lines().for_each(|line| messages.read(line));
    if messages.unknown.is_empty() {
        bail!("{LAYER} does not object to an image without a use: it was not loaded");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objections_are_kept() {
        let mut messages = Messages::default();
        messages.read("test plans::printed_plan ... ok");
        messages.read("VUID-vkCmdDispatch-None-02699(ERROR / SPEC): msgNum: 1 - Validation Error: [ VUID ] x");
        assert_eq!((messages.unknown.len(), messages.known), (1, 0));
    }
}
