//! The CPU executor gives the same bits whatever the number of threads.

use crate::common;
use common::modules::noise;
use wgrad::ops::attention::Attention;
use wgrad::ops::route::sinkhorn::Sinkhorn;
use wgrad::ops::route::soft_top_k::SoftTopK;
use wgrad::{Device, Feed, Graph, Result, Tensor};

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let [wide, tall, tokens] = [noise(&[257, 700], 1), noise(&[700, 1031], 2), noise(&[2, 3, 130, 64], 3)];
    let graph = Graph::new();
    let [a, b, q] = [("a", &wide), ("b", &tall), ("q", &tokens)].map(|(name, t)| graph.input(name, t.ty()));
    let product = a.matmul(b);
    let heads = q.transpose(1, 2).reshape([2 * 130, 3 * 64]).layer_norm(None, None, 1e-5);
    let attended = q.attention(q, q, &Attention { causal: true, ..Attention::default() }).out;
    let soft = product.soft_top_k(97, &SoftTopK::iterations(9, 0.1), None);
    let outputs = [
        ("product", product),
        ("turned", b.transpose(0, 1).matmul(a.transpose(0, 1))),
        ("heads", heads),
        ("attended", attended),
        ("soft", soft),
        ("sinkhorn", a.sinkhorn(&Sinkhorn::default(), None)),
        ("softmax", product.softmax(1).concat(&[product.exp()], 1).transpose(0, 1).contiguous()),
        ("top", product.top_k(50).values),
        ("functions", heads.tanh().gelu()),
        ("gradient", graph.grad(soft.square().sum_all() + attended.square().sum_all(), &[a])[0].dense().unwrap_or(a)),
    ];
    let plan = Device::cpu().compile_blocking(&graph, &outputs)?;
    let mut first: Option<Vec<Tensor>> = None;
    for threads in [1, 2, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let feed = Feed::new().input("a", &wide).input("b", &tall).input("q", &tokens);
        pool.install(|| plan.run(&feed))?;
        let results: Result<Vec<Tensor>> = outputs.iter().map(|(name, _)| plan.read_blocking(name)).collect();
        let results = results?;
        let first = first.get_or_insert_with(|| results.clone());
        for ((name, _), (a, b)) in outputs.iter().zip(first.iter().zip(&results)) {
            let bits = |t: &Tensor| t.floats().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(a) == bits(b), "{name} with {threads} threads");
        }
    }
    Ok(())
}
