//! Elementwise fusion: a value whose every user is in one kernel of the same shape is computed inside that kernel.

use crate::graph::{Call, Kind, Node, NodeId, Value};
use crate::ops::elementwise::{Argument, Fused, Scalar};

/// Inputs of one fused kernel: eight bindings, one of them the output.
const INPUTS: usize = 7;
/// Functions in one fused kernel; longer ones only cost compile time.
const NODES: usize = 48;

/// Group of every node: the node whose kernel computes it. Views and other operations have none.
pub(crate) struct Groups {
    root: Vec<Option<usize>>,
    inputs: Vec<Vec<Value>>,
    size: Vec<usize>,
    /// Constants that are only ever written into other kernels.
    written: Vec<bool>,
}

fn scalar(node: &Node) -> Option<Scalar> {
    match &node.kind {
        Kind::Op(op) => op.scalar(),
        _ => None,
    }
}

fn is_const(node: &Node) -> bool {
    matches!(scalar(node), Some(Scalar::Const { .. }))
}

impl Groups {
    /// Finds the groups; with `fuse` off every elementwise node is its own (constants are always written in).
    pub fn find(nodes: &[Node], external: &[Value], fuse: bool) -> Groups {
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|v| users[v.node.0 as usize].push(i));
        }
        let mut g = Groups {
            root: vec![None; nodes.len()],
            inputs: vec![vec![]; nodes.len()],
            size: vec![0; nodes.len()],
            written: vec![false; nodes.len()],
        };
        for i in (0..nodes.len()).rev() {
            if scalar(&nodes[i]).is_none() {
                continue;
            }
            let own: Vec<Value> =
                nodes[i].inputs.iter().copied().filter(|v| !is_const(&nodes[v.node.0 as usize])).collect();
            let outside = external.iter().any(|v| v.node.0 as usize == i);
            g.written[i] = !outside && is_const(&nodes[i]) && users[i].iter().all(|u| scalar(&nodes[*u]).is_some());
            let target = users[i].first().and_then(|u| g.root[*u]);
            let joined = target.filter(|_| fuse && !outside && !is_const(&nodes[i])).and_then(|root| {
                let together = users[i].iter().all(|u| g.root[*u] == Some(root));
                let same_shape = nodes[i].types[0].shape == nodes[root].types[0].shape;
                if !together || !same_shape || g.size[root] >= NODES {
                    return None;
                }
                let mut merged: Vec<Value> =
                    g.inputs[root].iter().copied().filter(|v| v.node.0 as usize != i).collect();
                for v in &own {
                    if !merged.contains(v) {
                        merged.push(*v);
                    }
                }
                (merged.len() <= INPUTS).then_some((root, merged))
            });
            match joined {
                Some((root, merged)) => {
                    g.root[i] = Some(root);
                    g.inputs[root] = merged;
                    g.size[root] += 1;
                }
                None => {
                    let mut inputs = Vec::new();
                    for v in own {
                        if !inputs.contains(&v) {
                            inputs.push(v);
                        }
                    }
                    g.root[i] = Some(i);
                    g.inputs[i] = inputs;
                    g.size[i] = 1;
                }
            }
        }
        g
    }

    /// Whether `node` is computed inside another node's kernel.
    pub fn inner(&self, node: usize) -> bool {
        self.written[node] || self.root[node].is_some_and(|r| r != node)
    }

    /// Who asked for a node: for a fused kernel its own call, then those of the others in it.
    pub fn calls(&self, nodes: &[Node], root: usize) -> Vec<Call> {
        let mut calls = vec![nodes[root].call];
        if self.root[root] == Some(root) && self.size[root] > 1 {
            for (i, _) in self.root[..root].iter().enumerate().filter(|(_, r)| **r == Some(root)) {
                if !calls.contains(&nodes[i].call) {
                    calls.push(nodes[i].call);
                }
            }
        }
        calls
    }

    /// The fused program of a root and the values it reads.
    pub fn program(&self, nodes: &[Node], root: usize) -> Option<(Fused, Vec<Value>)> {
        if self.root[root] != Some(root) {
            return None;
        }
        let inputs = self.inputs[root].clone();
        let mut fused = Fused { nodes: Vec::new(), results: Vec::new() };
        let mut placed: Vec<(NodeId, usize)> = Vec::new();
        for i in 0..=root {
            if self.root[i] != Some(root) {
                continue;
            }
            let Some(function) = scalar(&nodes[i]) else {
                continue;
            };
            let mut args = Vec::new();
            for v in &nodes[i].inputs {
                let known = placed.iter().find(|(n, _)| *n == v.node).map(|(_, k)| Argument::Node(*k));
                let input = inputs.iter().position(|x| x == v).map(Argument::Input);
                let arg = known.or(input).or_else(|| {
                    let constant = scalar(&nodes[v.node.0 as usize])?;
                    fused.nodes.push((constant, vec![]));
                    placed.push((v.node, fused.nodes.len() - 1));
                    Some(Argument::Node(fused.nodes.len() - 1))
                })?;
                args.push(arg);
            }
            fused.nodes.push((function, args));
            placed.push((NodeId(i as u32), fused.nodes.len() - 1));
        }
        fused.results.push(fused.nodes.len() - 1);
        Some((fused, inputs))
    }
}
