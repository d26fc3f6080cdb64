//! What a listener hears. Alone in its program: whether a span has listeners is remembered by the whole process, and a
//! neighbour without any may be the one that is remembered.

use std::sync::{Arc, Mutex};
use tracing_subscriber::layer::SubscriberExt;
use wgrad::{Device, Feed, Graph, Tensor, TensorType};

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: tracing_subscriber::registry::LookupSpan<'static> + tracing::Subscriber> tracing_subscriber::Layer<S>
    for Heard
{
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let data = attributes.metadata();
        self.0.lock().expect("one thread").push(format!("{} {} {}", data.target(), data.level(), data.name()));
    }
}

#[test]
fn listeners_hear_of_compiling_running_and_reading() {
    let heard = Heard::default();
    let subscriber = tracing_subscriber::registry().with(heard.clone());
    tracing::subscriber::with_default(subscriber, || {
        let graph = Graph::new();
        let y = graph.input("x", TensorType::f32([3])).tanh();
        let plan = Device::cpu().compile_blocking(&graph, &[("y", y)]).expect("a sound graph");
        let x = Tensor::f32([3], vec![1.0, 2.0, 3.0]).expect("three");
        plan.run(&Feed::new().input("x", &x)).expect("it runs");
        plan.read_blocking("y").expect("an output");
    });
    let heard = heard.0.lock().expect("one thread");
    assert_eq!(*heard, ["wgrad DEBUG compile", "wgrad TRACE run", "wgrad TRACE read"]);
}
