//! What a listener hears, and what the documentation says of it. Alone in its program: whether a span has listeners is
//! remembered by the whole process, and a neighbour without any may be the one that is remembered.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tracing::{Event, Metadata, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use wgrad::nn::{Linear, Params};
use wgrad::train::{Sgd, Threads, Trainer};
use wgrad::{Device, Feed, Graph, PlanCache, Store, Tensor, TensorType};

/// Level, name and fields of spans and events, in order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, data: &Metadata<'_>, name: &str) {
        let fields: Vec<&str> = data.fields().iter().map(|f| f.name()).filter(|name| *name != "message").collect();
        let fields = if fields.is_empty() { String::new() } else { format!(" {{ {} }}", fields.join(", ")) };
        self.0.lock().expect("no panic").push(format!("{} {name}{fields}", data.level()));
    }

    /// What was heard since the last time.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// The message of an event.
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

fn ours(data: &Metadata<'_>) -> bool {
    data.target() == "wgrad"
}

impl<S: Subscriber> Layer<S> for Heard {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let data = attributes.metadata();
        if ours(data) {
            self.note(data, data.name());
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if ours(event.metadata()) {
            self.note(event.metadata(), &message.0);
        }
    }
}

/// Compiles, runs, times, reads and profiles on a device, and records for a caller on a GPU.
fn use_plans(device: &Device, heard: &Heard) {
    let graph = Graph::new();
    let w = graph.state("w", TensorType::f32([3]));
    let y = graph.input("x", TensorType::f32([3])).tanh() + w;
    heard.take();
    let plan = device.compile_blocking(&graph, &[("y", y)]).expect("a sound graph");
    let compiled = heard.take();
    let planned = ["DEBUG plan { nodes, outputs }", "DEBUG compile { steps, outputs }"];
    assert_eq!(compiled[..2], planned);
    assert_eq!(compiled.last().map(String::as_str), Some("DEBUG compiled { steps, dispatches, bytes }"));
    let store = Store::new(device);
    let x = Tensor::f32([3], vec![1.0, 2.0, 3.0]).expect("three");
    store.set("w", &x).expect("it fits");
    let feed = Feed::new().store(&store).input("x", &x);
    plan.run(&feed).expect("it runs");
    plan.read_blocking("y").expect("an output");
    store.read_blocking("w").expect("a state");
    plan.run_timed_blocking(&feed).expect("it runs");
    // A GPU without timestamps refuses, which is heard too.
    let _ = plan.profile_blocking(&feed);
    let [run, read, profile] = ["TRACE run { step }", "TRACE read { name, elements }", "DEBUG profile { step }"];
    assert_eq!(heard.take(), [run, read, read, run, profile]);
    if let Some(gpu) = device.as_gpu() {
        let mut encoder = gpu.wgpu().0.create_command_encoder(&Default::default());
        plan.encode(&feed, &mut encoder).expect("it is recorded");
        assert_eq!(heard.take(), ["TRACE encode { step }"]);
    }
}

/// A step of two ranks, and a plan from a cache.
fn use_more(heard: &Heard) {
    let work = |rank: Threads| {
        let mut params = Params::new(1);
        let layer = Linear::new(&mut params, "layer", 1, 1, true);
        let builder = Trainer::builder(&Device::cpu(), params, Sgd::default()).ranks(rank);
        let mut trainer = builder.compile_blocking(|graph, p| {
            let x = graph.input("x", TensorType::f32([2, 1]));
            layer.forward(p, x).square().mean_all()
        })?;
        trainer.step(&[("x", &Tensor::f32([2, 1], vec![1.0, 2.0])?)])
    };
    heard.take();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::group(2).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
        ranks.into_iter().for_each(|rank| rank.join().expect("it does not panic").expect("a step"));
    });
    let step = heard.take();
    for (line, count) in
        [("DEBUG plan {", 4), ("DEBUG compile {", 4), ("TRACE run", 4), ("TRACE join { rank, step }", 2)]
    {
        // Micro-batches and the optimizer are programs of their own.
        assert!(step.iter().filter(|heard| heard.starts_with(line)).count() >= count, "{line}: {step:?}");
    }
    let cache = PlanCache::new(&Device::cpu(), 1).expect("room for one");
    for _ in 0..2 {
        let graph = Graph::new();
        let y = graph.input("x", TensorType::f32([3])).exp();
        cache.compile_blocking(&graph, &[("y", y)]).expect("a sound graph");
    }
    assert_eq!(heard.take().last().map(String::as_str), Some("DEBUG plan found in the cache { kept }"));
}

#[test]
fn listeners_hear_what_is_documented() {
    let heard = Heard::default();
    let subscriber = tracing_subscriber::registry().with(heard.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the first one");
    use_plans(&Device::cpu(), &heard);
    if let Some(device) = common::gpu() {
        let made = heard.take();
        let [software, hardware] = ["WARN a software driver, which is slow", "INFO device made"];
        let ours = |line: &String| line.starts_with(software) || line.starts_with(hardware);
        assert!(made.iter().any(ours), "{made:?}");
        use_plans(device, &heard);
    }
    use_more(&heard);
    assert_eq!(documented(), in_the_source());
}

/// The two tables: level, name and fields.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../docs/observability.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (level, what) = (cells.next()?.strip_suffix('`')?, cells.next()?);
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        levels.contains(&level).then(|| format!("{level} {}", what.replace('`', "")))
    };
    text.lines().filter_map(row).collect()
}

/// All that is said anywhere.
fn in_the_source() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    all
}

fn visit(folder: &Path, all: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            visit(&path, all);
        } else {
            let text = std::fs::read_to_string(&path).expect("a source file");
            all.extend(text.split("event!(").chain(text.split("span!(")).filter_map(call));
        }
    }
}

/// `LEVEL, "name", field = value, …)`, as it stands behind the name of the macro.
fn call(text: &str) -> Option<String> {
    let (level, rest) = text.trim_start().split_once(',')?;
    let (name, rest) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    if !level.chars().all(|c| c.is_ascii_uppercase()) {
        return None;
    }
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    })?;
    let fields = rest[..end].split(',').filter_map(|field| Some(field.split_once(" = ")?.0.trim()));
    let fields = fields.collect::<Vec<_>>().join(", ");
    Some(if fields.is_empty() { format!("{level} {name}") } else { format!("{level} {name} {{ {fields} }}") })
}
