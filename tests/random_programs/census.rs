//! Which operations random programs are made of: all that there are samples of.

use crate::grow::{Aim, Grower};
use crate::program::Program;
use std::collections::BTreeSet;
use wgrad::ops::samples::{self, Sample};
use wgrad::{DType, Graph, TensorType, Var};

/// Operations of no random program, and why: none.
const LEFT_OUT: &[(&str, &str)] = &[];

/// Programs that are built to find all operations.
const PROGRAMS: u64 = 3_000;

/// Names of the operations of a graph, as it prints them.
fn operations(graph: &Graph) -> BTreeSet<String> {
    let name = |line: &str| line.split_once(" = ")?.1.split([' ', ':']).next().map(str::to_owned);
    let named = graph.to_string().lines().filter_map(name).collect::<BTreeSet<String>>();
    named.into_iter().filter(|name| !["input", "state", "constant"].contains(&name.as_str())).collect()
}

/// Those of a sample and its gradients.
fn of_sample(sample: &Sample) -> BTreeSet<String> {
    let graph = Graph::new();
    let inputs: Vec<Var<'_>> =
        sample.inputs.iter().enumerate().map(|(i, (ty, _))| graph.input(&format!("in{i}"), ty.clone())).collect();
    let outputs = (sample.build)(&graph, &inputs);
    if sample.differentiable {
        let seeds: Vec<(Var<'_>, Var<'_>)> = outputs
            .iter()
            .filter(|v| v.dtype() == DType::F32)
            .enumerate()
            .map(|(i, v)| (*v, graph.input(&format!("seed{i}"), TensorType::f32(v.shape()))))
            .collect();
        let wrt: Vec<Var<'_>> = inputs.iter().copied().filter(|v| v.dtype() == DType::F32).collect();
        graph.vjp(&seeds, &wrt).iter().for_each(|gradient| _ = gradient.dense());
    }
    operations(&graph)
}

#[test]
fn every_operation_takes_part() {
    let mut missing: BTreeSet<String> = samples::all().iter().flat_map(of_sample).collect();
    let excused = |name: &str| LEFT_OUT.iter().any(|(left, _)| *left == name);
    let mut used = BTreeSet::new();
    for seed in 0..PROGRAMS {
        let graph = Graph::new();
        let grower = Grower::new(&graph, &Program::random(seed), Aim::Run);
        grower.puts.iter().for_each(|put| put.assign());
        assert!(graph.error().is_none(), "seed {seed}: {:?}", graph.error());
        used.extend(operations(&graph));
        missing.retain(|name| !used.contains(name));
        if missing.iter().all(|name| excused(name)) && seed >= 300 {
            println!("{} operations within {seed} programs", used.len());
            break;
        }
    }
    missing.retain(|name| !excused(name));
    assert!(missing.is_empty(), "in no random program: {missing:?}");
    let wrong: Vec<&str> = LEFT_OUT.iter().map(|(name, _)| *name).filter(|name| used.contains(*name)).collect();
    assert!(wrong.is_empty(), "said to be in no random program, and are: {wrong:?}");
}
