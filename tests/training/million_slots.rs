//! A memory of 1,048,576 slots of 64 features trains within 4 GiB of process memory, on the CPU executor and on a GPU with the
//! limits that every WebGPU device has. A test binary of its own: the peak is that of the process.

use crate::common;
use crate::common::modules::noise;
use wgrad::graph::Mode;
use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory, SlotUsage, VALUES, values_group};
use wgrad::nn::Params;
use wgrad::train::{Adam, Trainer};
use wgrad::{Device, GpuOptions, Result, Store, TensorType};

const KEYS: usize = 1024;
const SLOTS: usize = KEYS * KEYS;
const DIM: usize = 64;
const TOKENS: usize = 64;
const STEPS: usize = 20;

/// Most bytes of memory that this process ever had; known on Linux only.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn a_million_slots_train_in_4_gib() -> Result<()> {
    let config = ProductKeyConfig { num_keys: KEYS, dim_head: 32, ..ProductKeyConfig::new(DIM) };
    let (x, y) = (noise(&[TOKENS, DIM], 1), noise(&[TOKENS, DIM], 2));
    let portable = common::fresh(GpuOptions { portable_limits: true, ..common::options() });
    for device in [Some(Device::cpu()), portable].into_iter().flatten() {
        let mut params = Params::new(1);
        let memory = ProductKeyMemory::new(&mut params, "pkm", config.clone())?;
        let usage = SlotUsage::new("usage", SLOTS);
        let mut trainer = Trainer::builder(&device, params, Adam::default().lr(1e-3))
            .group(VALUES, values_group(1e-3, 1e-2))
            .clip(1.0)
            .compile_blocking(|g, p| {
                let [x, y] = ["x", "y"].map(|name| g.input(name, TensorType::f32([TOKENS, DIM])));
                let recall = memory.recall(p, x, &Lookup::new(Mode::Train, 0));
                usage.count(&[recall], &[]);
                (recall.out - y).square().mean_all()
            })?;
        // 2^20 rows of 256 bytes are two bindings of 128 MiB.
        let pieces = trainer.store().names().into_iter().filter(|n| n.starts_with("params/values/")).count();
        assert_eq!(pieces, 2, "{:?}", trainer.store().names());
        let counts = Store::new(&device);
        usage.reset(&counts)?;
        let mut losses = Vec::new();
        for _ in 0..STEPS {
            trainer.step_with(&[("x", &x), ("y", &y)], &[&counts])?;
            losses.push(trainer.loss_blocking()?);
        }
        assert!(losses[STEPS - 1] < 0.3 * losses[0], "{device}: {losses:?}");
        // Nothing of the table's size belongs to the plan.
        assert!(trainer.plans().all(|p| p.bytes() < 64 << 20));

        let hits = usage.read_blocking(&counts)?.hits;
        let trained = pollster::block_on(trainer.read_params())?;
        let mut before = Params::new(1);
        ProductKeyMemory::new(&mut before, "pkm", config.clone())?;
        let (a, b) = (before.value("pkm.values.weight")?, trained.value("pkm.values.weight")?);
        let mut changed = 0;
        for (slot, (a, b)) in a.floats().chunks(DIM).zip(b.floats().chunks(DIM)).enumerate() {
            assert!((a != b) == (hits[slot] > 0.0), "{device}: slot {slot}, {} hits", hits[slot]);
            changed += usize::from(a != b);
        }
        println!("{device}: loss {:.3} to {:.3}, {changed} of {SLOTS} slots changed", losses[0], losses[STEPS - 1]);
        if let Some(peak) = peak() {
            println!("peak of the process: {} MiB", peak >> 20);
            assert!(peak < 4 << 30, "{device}: {} MiB", peak >> 20);
        }
    }
    Ok(())
}
