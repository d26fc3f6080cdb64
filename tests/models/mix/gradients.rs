//! Gradients in double precision against finite differences, and where routers get theirs.

use super::{ALL, SEGMENT, config, kinds, model, texts};
use std::collections::BTreeMap;
use wgrad::graph::Gradient;
use wgrad::models::mix::{MemoryConfig, MemoryTransformer};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Feed, Graph, Plan, TensorType, Var};

const LOSS: &str = "loss";

/// A plan in double precision whose parameters are inputs: the loss, and all gradients under the parameters' names.
struct Oracle {
    plan: Plan,
    names: Vec<String>,
    values: BTreeMap<String, Vec<f64>>,
}

fn loss<'g>(model: &MemoryTransformer, p: &ParamVars<'g>) -> Var<'g> {
    model.loss(p, p.graph().constant(texts(1, 2 * SEGMENT + 3, 1)))
}

impl Oracle {
    fn new(model: &MemoryTransformer, params: &Params) -> Self {
        let graph = Graph::new();
        let declare =
            |p: &wgrad::nn::Param| (p.name().to_owned(), graph.input(p.name(), TensorType::f32(p.shape().clone())));
        let vars: Vec<_> = params.iter().map(declare).collect();
        let p = ParamVars::from_vars(&graph, vars);
        let loss = loss(model, &p);
        let trained: Vec<String> = params.iter().filter(|p| p.is_trainable()).map(|p| p.name().to_owned()).collect();
        let wrt: Vec<Var<'_>> = trained.iter().map(|name| p.get(name)).collect();
        let mut outputs = vec![(LOSS, loss)];
        let grads = graph.grad(loss, &wrt);
        let some = trained.iter().zip(grads).filter(|(_, grad)| !matches!(grad, Gradient::None));
        let found: Vec<(&String, Var<'_>)> = some.filter_map(|(name, grad)| Some((name, grad.dense()?))).collect();
        outputs.extend(found.iter().map(|(name, grad)| (name.as_str(), *grad)));
        let plan = Device::cpu_f64().compile_blocking(&graph, &outputs).unwrap();
        let wide = |t: wgrad::Tensor| t.floats().iter().map(|x| f64::from(*x)).collect();
        let values = params.values().map(|(name, t)| (name.to_owned(), wide(t))).collect();
        Oracle { plan, names: found.iter().map(|(name, _)| (*name).clone()).collect(), values }
    }

    fn run(&self) {
        let mut feed = Feed::new();
        for (name, values) in &self.values {
            feed = feed.input_f64(name, values);
        }
        self.plan.run(&feed).unwrap();
    }

    /// Refuses a gradient that no finite difference agrees with, at the element where it is largest.
    fn check(&mut self, what: &str, skip: impl Fn(&str) -> bool) {
        self.run();
        let names: Vec<String> = self.names.iter().filter(|name| !skip(name)).cloned().collect();
        let grads: Vec<Vec<f64>> = names.iter().map(|name| self.plan.read_f64(name).unwrap()).collect();
        for (name, grad) in names.iter().zip(grads) {
            let (at, want) = grad.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
            let (h, kept) = (1e-5, self.values[name][at]);
            let [up, down] = [h, -h].map(|h| {
                self.values.get_mut(name).unwrap()[at] = kept + h;
                self.run();
                self.plan.read_f64(LOSS).unwrap()[0]
            });
            self.values.get_mut(name).unwrap()[at] = kept;
            let got = (up - down) / (2.0 * h);
            let close = (got - want).abs() < 1e-7 + 1e-5 * want.abs();
            assert!(close, "{what}: {name}[{at}] has gradient {want}, difference {got}");
        }
    }
}

/// Straight-through gates have the gradient of soft scores, and what memories keep is detached: only parameters behind both
/// agree with finite differences, those of the last layer and after it.
fn estimated(config: &MemoryConfig) -> bool {
    let text = config.to_json();
    text.contains("routed") || text.contains("long_memory")
}

#[test]
fn gradients_are_finite_differences() {
    for (name, config) in kinds() {
        let (model, params) = model(&config);
        let mut oracle = Oracle::new(&model, &params);
        let layer = format!("layers.{}.", config.layers.len() - 1);
        let behind = |p: &str| {
            p.starts_with("to_logits")
                || p.starts_with("norm.")
                || p.starts_with(&layer) && p.contains(".feed_forward.")
        };
        let routed = |p: &str| p.contains("rout");
        oracle.check(name, |p| estimated(&config) && (!behind(p) || routed(p)));
    }
}

/// Every parameter gets a gradient that is not zero: routers, projections, null keys, gates, tables.
#[test]
fn all_parameters_get_gradients() {
    for (name, config) in kinds() {
        let (model, params) = model(&config);
        let oracle = Oracle::new(&model, &params);
        oracle.run();
        for p in params.iter().filter(|p| p.is_trainable()) {
            let grad = oracle.names.iter().any(|name| name == p.name());
            assert!(grad, "{name}: {} has no gradient", p.name());
            let grad = oracle.plan.read_f64(p.name()).unwrap();
            assert!(grad.iter().any(|g| *g != 0.0), "{name}: the gradient of {} is 0", p.name());
        }
    }
    let _ = config(&ALL);
}
