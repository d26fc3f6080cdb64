//! What a plan says about itself: lines, bytes, times, memory.

use crate::common;
use wgrad::exec::{Profile, Roofline};
use wgrad::{Device, Feed, GpuOptions, Graph, Plan, Store, Tensor, TensorType};

/// The CPU executor, then a GPU with timestamps if its adapter has them.
fn devices() -> Vec<Device> {
    let gpu = common::fresh(GpuOptions { timestamps: true, ..common::options() });
    let timed = |d: &Device| {
        let features = d.as_gpu().map(|gpu| gpu.wgpu().0.features());
        features.is_some_and(|f| f.contains(wgpu::Features::TIMESTAMP_QUERY))
    };
    [Device::cpu()].into_iter().chain(gpu.filter(timed)).collect()
}

/// A product and its gradient with rows picked from a table, and the line of the product.
fn plan(device: &Device) -> (Plan, u32) {
    let graph = Graph::new();
    let table = graph.state("table", TensorType::f32([1000, 32]));
    let picked = table.gather(graph.input("rows", TensorType::u32([7])));
    let line = line!() + 1;
    let y = picked.matmul(table.slice(0, 0, 32)).tanh();
    let dw = graph.grad(y.square().sum_all(), &[picked])[0].dense().expect("it depends on it");
    (device.compile_blocking(&graph, &[("y", y), ("dw", dw)]).expect("a sound graph"), line)
}

fn fed<R>(plan: &Plan, f: impl FnOnce(&Feed<'_>) -> R) -> R {
    let store = Store::new(plan.device());
    store.set("table", &common::modules::noise(&[1000, 32], 1)).expect("it fits");
    let rows = Tensor::u32([7], vec![3, 999, 0, 3, 5, 6, 7]).expect("seven");
    f(&Feed::new().store(&store).input("rows", &rows))
}

#[test]
fn dispatches_name_the_lines_that_asked_for_them() {
    for device in devices() {
        let (plan, line) = plan(&device);
        let all = plan.explain();
        assert_eq!(all.dispatches.len(), plan.dispatches());
        let products: Vec<_> = all.dispatches.iter().filter(|d| d.operation == "matmul").collect();
        let places: Vec<String> = products.iter().map(|d| d.calls[0].to_string()).collect();
        let place = format!("tests/engine/observe.rs:{line}");
        assert_eq!(places, [place.clone(), format!("{place} (gradient)")]);
        assert_eq!(products[0].operations, 2 * 7 * 32 * 32);
        assert_eq!(products[0].bytes, 4 * (7 * 32 + 32 * 32 + 7 * 32));
        let gather = all.dispatches.iter().find(|d| d.operation == "gather").expect("rows are picked");
        assert_eq!(gather.bytes, 4 * (7 + 2 * 7 * 32), "only the rows that are named count");
        assert_eq!(gather.operations, 7 + 2 * 7 * 32, "one for each element");
        let text = all.clone().with(Roofline { bytes_per_s: 1e9, operations_per_s: 1e9 }).to_string();
        assert!(text.contains(&place) && text.contains("14.3µs"), "{text}");
    }
}

/// Layers of the library stand for the line that called them.
#[test]
fn layers_name_the_line_that_called_them() {
    use wgrad::nn::{Embedding, Linear, Params};
    let mut params = Params::new(0);
    let (table, layer) = (Embedding::new(&mut params, "table", 9, 4), Linear::new(&mut params, "layer", 4, 4, true));
    let graph = Graph::new();
    let p = params.vars(&graph);
    let ids = graph.input("ids", TensorType::u32([3]));
    let line = line!() + 1;
    let y = layer.forward(&p, table.forward(&p, ids)).rms_norm(None);
    let plan = Device::cpu().compile_blocking(&graph, &[("y", y)]).expect("a sound graph");
    let calls: Vec<String> = plan.explain().dispatches.iter().flat_map(|d| &d.calls).map(ToString::to_string).collect();
    assert!(!calls.is_empty() && calls.iter().all(|c| *c == format!("tests/engine/observe.rs:{line}")), "{calls:?}");
}

#[test]
fn fused_kernels_name_all_their_lines() {
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([4]));
    let line = line!() + 1;
    let a = x.exp();
    let b = a.square();
    let c = b + x;
    let plan = Device::cpu().compile_blocking(&graph, &[("c", c)]).expect("a sound graph");
    let all = plan.explain();
    assert_eq!(all.dispatches.len(), 1, "{plan}");
    // Its own line, then those of what is computed on the way.
    let want = [line + 2, line, line + 1].map(|line| format!("tests/engine/observe.rs:{line}"));
    assert_eq!(all.dispatches[0].calls.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
}

#[test]
fn profiles_time_every_dispatch_of_a_run_like_any_other() {
    for device in devices() {
        let (plan, _) = plan(&device);
        let (want, profile): (Tensor, Profile) = fed(&plan, |feed| {
            plan.run(feed).expect("it runs");
            let want = plan.read_blocking("dw").expect("an output");
            (want, plan.profile_blocking(feed).expect("timestamps"))
        });
        assert_eq!(plan.read_blocking("dw").expect("an output"), want);
        assert_eq!(profile.timings.len(), plan.dispatches());
        assert!(profile.total().as_nanos() > 0);
        assert!(profile.timings.windows(2).all(|t| t[0].start <= t[1].start));
        let calls: usize = profile.kernels().iter().map(|k| k.calls).sum();
        assert_eq!(calls, plan.dispatches());
        let trace: serde_json::Value = serde_json::from_str(&profile.chrome_trace()).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("a list");
        assert_eq!(events.len(), plan.dispatches() + 1);
        assert!(events[1..].iter().all(|e| e["ph"] == "X" && e["dur"].is_number() && e["ts"].is_number()));
        assert!(profile.to_string().contains("matmul"));
        println!("{profile}");
    }
}

#[test]
fn more_dispatches_than_a_query_set_holds_are_timed() {
    for device in devices().into_iter().filter(Device::is_gpu) {
        let graph = Graph::new();
        let mut x = graph.input("x", TensorType::f32([4, 4]));
        for _ in 0..2100 {
            x = x.softmax(1);
        }
        let plan = device.compile_blocking(&graph, &[("y", x)]).expect("a sound graph");
        let ones = Tensor::f32([4, 4], vec![1.0; 16]).expect("16");
        let profile = plan.profile_blocking(&Feed::new().input("x", &ones)).expect("timestamps");
        assert_eq!(profile.timings.len(), 2100);
        assert!(profile.timings[2099].start >= profile.timings[0].start);
        assert_eq!(plan.read_blocking("y").expect("an output").floats(), [0.25; 16]);
    }
}

#[test]
fn a_device_without_timestamps_says_what_to_do() {
    let Some(device) = common::gpu() else { return };
    let (plan, _) = plan(device);
    let error = fed(&plan, |feed| plan.profile_blocking(feed)).expect_err("no timestamps were asked for");
    assert!(error.to_string().contains("GpuOptions::timestamps"), "{error}");
}

#[test]
fn values_in_a_slot_do_not_meet() {
    for device in common::devices() {
        let (plan, _) = plan(&device);
        let report = plan.memory();
        assert!(!report.slots.is_empty());
        for slot in &report.slots {
            for (i, a) in slot.values.iter().enumerate() {
                assert!(a.offset + a.bytes <= slot.bytes, "{slot:?}");
                // At different times, or side by side.
                let apart = |b: &wgrad::exec::Resident| {
                    let times = a.lives.end() < b.lives.start() || b.lives.end() < a.lives.start();
                    times || a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset
                };
                assert!(slot.values[i + 1..].iter().all(apart), "{slot:?}");
            }
        }
        let alive: u64 = report.alive(report.fullest).iter().map(|v| v.bytes).sum();
        assert_eq!(alive, report.least);
        assert!(report.least <= report.slots.iter().map(|s| s.bytes).sum());
        assert_eq!((report.states[0].1, report.inputs[0].1), (1000 * 32 * 4, 28));
        assert_eq!(report.held, plan.bytes());
        assert!(report.to_string().contains("fullest at"), "{report}");
    }
}

#[test]
fn a_roofline_is_measured() {
    let roofline = Roofline::measure_blocking(&Device::cpu()).expect("it runs");
    assert!(roofline.bytes_per_s > 1e6 && roofline.operations_per_s > 1e6, "{roofline}");
}
