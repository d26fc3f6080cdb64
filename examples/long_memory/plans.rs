//! What runs for each block.

use wgrad::models::long_memory::RoutedMemory;
use wgrad::nn::Params;
use wgrad::{Device, Graph, Plan, Result, TensorType, Var};

/// Plans of a block: read and write, read alone, write alone, and the gradients of all parameters.
pub struct Plans {
    pub whole: Plan,
    pub read: Plan,
    pub write: Plan,
    pub gradients: Option<Plan>,
}

/// `shape` is that of a block, `[1, tokens, features]`.
pub fn plans(
    layer: &RoutedMemory,
    params: &Params,
    device: &Device,
    shape: [usize; 3],
    gradients: bool,
) -> Result<Plans> {
    let plan = |reads: bool, writes: bool, gradients: bool| {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let x = graph.input("x", TensorType::f32(shape));
        let memory = layer.memory(&graph, "long", 1);
        let mut outputs = Vec::new();
        if reads {
            let y = layer.forward(&p, x, &memory).square().mean_all();
            outputs.push(("y", y));
            if gradients {
                let wrt: Vec<Var<'_>> = params.names().map(|name| p.get(name)).collect();
                let all = graph.grad(y, &wrt);
                outputs.extend(params.names().zip(&all).filter_map(|(name, g)| Some((name, g.dense()?))));
            }
        }
        if writes {
            layer.push(&p, &memory, x, None).commit();
        }
        device.compile_blocking(&graph, &outputs)
    };
    Ok(Plans {
        whole: plan(true, true, false)?,
        read: plan(true, false, false)?,
        write: plan(false, true, false)?,
        gradients: if gradients { Some(plan(true, true, true)?) } else { None },
    })
}

pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
