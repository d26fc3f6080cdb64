//! Dead code and common subexpressions.

use crate::graph::{Kind, Node, NodeId, Value};
use rustc_hash::FxHashMap;

/// Nodes that remain, in order, with inputs pointing at each other; and where each old value went.
pub(crate) struct Simplified {
    pub nodes: Vec<Node>,
    pub map: Vec<Option<NodeId>>,
}

impl Simplified {
    pub fn value(&self, old: Value) -> Value {
        Value { node: self.map[old.node.0 as usize].unwrap_or(old.node), output: old.output }
    }
}

/// Keeps what `roots` need. With `merge_copies`, nodes copied for recomputation merge with their originals.
pub(crate) fn simplify(nodes: &[Node], roots: &[Value], merge_copies: bool) -> Simplified {
    let mut needed = vec![false; nodes.len()];
    for r in roots {
        needed[r.node.0 as usize] = true;
    }
    for i in (0..nodes.len()).rev() {
        if needed[i] {
            nodes[i].inputs.iter().for_each(|v| needed[v.node.0 as usize] = true);
        }
    }
    let mut out = Simplified { nodes: Vec::new(), map: vec![None; nodes.len()] };
    let mut seen: FxHashMap<String, NodeId> = FxHashMap::default();
    for (i, node) in nodes.iter().enumerate().filter(|(i, _)| needed[*i]) {
        let mut node = node.clone();
        for v in &mut node.inputs {
            *v = out.value(*v);
        }
        let key = match &node.kind {
            Kind::Op(op) if !op.unmergeable() => {
                let copy = if merge_copies { 0 } else { node.copy };
                Some(format!("{}|{op:?}|{:?}|{copy}", op.name(), node.inputs))
            }
            _ => None,
        };
        let next = NodeId(out.nodes.len() as u32);
        let id = match key {
            Some(key) => *seen.entry(key).or_insert(next),
            None => next,
        };
        if id == next {
            out.nodes.push(node);
        }
        out.map[i] = Some(id);
    }
    out
}
