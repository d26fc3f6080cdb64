//! Plans of one device on several threads, handles dropped in any order, and runs without end.

use crate::{batch, common, run, trainer};
use wgrad::{Device, Feed, Graph, Plan, Result, Store, Tensor, TensorType};

#[test]
fn two_plans_on_two_threads_are_as_if_alone() -> Result<()> {
    for device in common::devices() {
        let alone = [run(&mut trainer(&device, 24)?, 0..20)?, run(&mut trainer(&device, 31)?, 0..20)?];
        let together = std::thread::scope(|scope| {
            let threads = [24, 31].map(|wide| {
                let device = &device;
                scope.spawn(move || run(&mut trainer(device, wide)?, 0..20))
            });
            threads.map(|t| t.join().expect("the thread ends"))
        });
        for (alone, together) in alone.into_iter().zip(together) {
            assert_eq!(alone, together?, "{device}");
        }
    }
    Ok(())
}

/// What a user holds.
enum Held {
    Device(Device),
    Store(Store),
    Plan(Box<Plan>),
    Graph(Graph),
}

fn held(device: Device) -> Result<Vec<Held>> {
    let graph = Graph::new();
    let s = graph.state("s", TensorType::f32([2]));
    let x = graph.input("x", TensorType::f32([2]));
    graph.assign(s, s + x);
    let plan = device.compile_blocking(&graph, &[("y", s * x)])?;
    let store = Store::new(&device);
    let x = Tensor::f32([2], vec![1.0, 2.0])?;
    store.set("s", &x)?;
    plan.run(&Feed::new().store(&store).input("x", &x))?;
    Ok(vec![Held::Device(device), Held::Store(store), Held::Plan(Box::new(plan)), Held::Graph(graph)])
}

/// All orders of four things.
fn orders() -> Vec<[usize; 4]> {
    let all = (0..256).map(|i| [i % 4, i / 4 % 4, i / 16 % 4, i / 64]);
    all.filter(|o| (0..4).all(|k| o.contains(&k))).collect()
}

/// Drops the handles of one device in this order; what is left keeps working.
fn drop_all(device: Device, order: [usize; 4]) -> Result<()> {
    let mut held: Vec<Option<Held>> = held(device)?.into_iter().map(Some).collect();
    for i in order {
        held[i] = None;
        for rest in held.iter().flatten() {
            match rest {
                Held::Plan(plan) => assert_eq!(plan.read_blocking("y")?.floats(), [1.0, 4.0]),
                Held::Store(store) => assert_eq!(store.read_blocking("s")?.floats(), [2.0, 4.0]),
                Held::Device(device) => {
                    // It is whole: what is made on it now runs.
                    let store = Store::new(device);
                    store.set("t", &Tensor::f32([1], vec![3.0])?)?;
                    assert_eq!(store.read_blocking("t")?.floats(), [3.0]);
                }
                Held::Graph(graph) => assert!(graph.to_string().contains("state s")),
            }
        }
    }
    Ok(())
}

#[test]
fn handles_are_dropped_in_any_order() -> Result<()> {
    assert_eq!(orders().len(), 24);
    for order in orders() {
        // A device of which there is another handle, and one whose last handle goes at any place.
        for device in common::devices() {
            drop_all(device, order)?;
        }
        drop_all(Device::cpu(), order)?;
        if let Some(device) = common::fresh(common::options()) {
            drop_all(device, order)?;
        }
    }
    Ok(())
}

/// Resident memory in bytes.
#[cfg(target_os = "linux")]
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// In a process of its own, where no other test changes the memory.
#[cfg(target_os = "linux")]
#[test]
fn child_trains_long() -> Result<()> {
    let Some(which) = crate::argument() else { return Ok(()) };
    let device = if which == "cpu" { Some(Device::cpu()) } else { common::fresh(common::options()) };
    let Some(device) = device else { return Ok(()) };
    let mut t = trainer(&device, 24)?;
    let [x, y] = batch(0)?;
    let made = || device.as_gpu().map(|gpu| gpu.counters.snapshot()).unwrap_or_default();
    let mut marks = Vec::new();
    for step in 0..10_001 {
        t.step(&[("x", &x), ("y", &y)])?;
        // As a program that shows its loss now and then.
        if step % 100 == 0 {
            t.loss_blocking()?;
        }
        if [2_000, 10_000].contains(&step) {
            marks.push((made(), memory()));
        }
    }
    let [(first, before), (last, after)] = marks[..] else { panic!("two marks") };
    assert_eq!(first[..4], last[..4], "buffers, bytes, bind groups or pipelines were made");
    println!("{before} bytes after 2,000 steps, {after} after 10,000");
    assert!(after < before + (4 << 20), "memory grew from {before} to {after}");
    println!("10,000 steps");
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn ten_thousand_steps_make_nothing_more() {
    let gpu = common::gpu().is_some();
    for which in ["cpu", "gpu"].into_iter().take(1 + usize::from(gpu)) {
        let out = crate::child("threads::child_trains_long", which).output().expect("a process");
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && text.contains("10,000 steps"), "{which}: {text}");
    }
}
