//! Bad input: what was expected, what came.

use super::{SEGMENT, graph_input, model, tiny};
use wgrad::graph::Mode;
use wgrad::models::recurrent::{
    AttentionBlock, AttentionBlockConfig, BlockRecurrentConfig, BlockRecurrentTransformer, Carried, Compression,
    FeedForward, GateConfiguration, GateKind, Memory, RecurrentTrainerWrapper, StateContainerConfig, States,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Error, Graph, TensorType, Var};

fn refused(build: impl for<'g> Fn(&'g Graph, &ParamVars<'g>, &BlockRecurrentTransformer) -> Var<'g>) -> String {
    let (model, params) = model(&tiny());
    let graph = Graph::new();
    let out = build(&graph, &params.vars(&graph), &model);
    let error = Device::cpu().compile_blocking(&graph, &[("out", out)]).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Argument { .. } | Error::Shape { .. } | Error::Dtype { .. }), "{error:?}");
    error.to_string()
}

fn text(g: &Graph, b: usize, n: usize) -> Var<'_> {
    g.input("ids", TensorType::u32([b, n]))
}

#[test]
fn sequences_of_the_wrong_length() {
    for n in [1, SEGMENT, SEGMENT + 2, 2 * SEGMENT] {
        let say = refused(|g, p, m| RecurrentTrainerWrapper::new(m.clone()).loss(p, text(g, 2, n), Mode::Train).0);
        assert!(say.contains("a multiple of max_seq_len 8") && say.contains(&format!("[2, {n}]")), "{say}");
    }
    let say = refused(|g, p, m| {
        RecurrentTrainerWrapper::new(m.clone()).segment_loss(p, text(g, 2, 2 * SEGMENT + 1), None, Mode::Train)
    });
    assert!(say.contains("n of max_seq_len 8, got u32[2, 17]"), "{say}");
    for n in [0, SEGMENT + 1] {
        let say = refused(|g, p, m| m.forward(p, text(g, 2, n), &Carried::default()).0);
        assert!(say.contains("1 to 8 tokens") && say.contains(&format!("got {n}")), "{say}");
    }
    assert!(refused(|g, p, m| m.loss(p, text(g, 2, 0), &Carried::default()).0).contains("got 0"));
    let say = refused(|g, p, m| m.forward(p, g.input("ids", TensorType::f32([2, 4])), &Carried::default()).0);
    assert!(say.contains("u32 [batch, n]"), "{say}");
    refused(|g, p, m| m.forward(p, g.input("ids", TensorType::u32([4])), &Carried::default()).0);
    refused(|g, p, m| m.loss(p, g.input("ids", TensorType::u32([4])), &Carried::default()).0);
}

#[test]
fn states_and_memories_of_the_wrong_shape() {
    let states = |shape: [usize; 3]| {
        refused(|g, p, m| {
            let states = vec![States { vectors: graph_input(g, "s", &shape), written: None }];
            m.forward(p, text(g, 2, 4), &Carried { states, ..Default::default() }).0
        })
    };
    for shape in [[2, 3, 9], [2, 4, 8], [3, 3, 8], [1, 3, 8]] {
        let say = states(shape);
        let got = format!("got f32[{}, {}, {}]", shape[0], shape[1], shape[2]);
        assert!(
            say.contains("states 0 at tests") && say.contains("expected f32[2, 3, 8]") && say.contains(&got),
            "{say}"
        );
    }
    let memories = |count: usize, shape: [usize; 3], most: Option<[usize; 1]>| {
        refused(|g, p, m| {
            let (keys, values) = (graph_input(g, "k", &shape), graph_input(g, "v", &shape));
            let counts = most.map(|shape| g.input("c", TensorType::u32(shape)));
            let memories = vec![Memory { keys, values, count: counts }; count];
            m.forward(p, text(g, 2, 4), &Carried { memories, ..Default::default() }).0
        })
    };
    assert!(memories(1, [2, 4, 4], None).contains("1 memories for 2 layers"));
    assert!(memories(2, [2, 5, 4], None).contains("memory 0 has 5 rows; expected at most 4"));
    assert!(memories(2, [3, 4, 4], None).contains("expected f32[2, 4, 4], got f32[3, 4, 4]"));
    assert!(memories(2, [2, 4, 6], None).contains("expected f32[2, 4, 4], got f32[2, 4, 6]"));
    assert!(memories(2, [2, 4, 4], Some([3])).contains("expected u32[2], got u32[3]"));
}

/// Modules by themselves keep the mistake in the parameters, where it is reported.
#[test]
fn modules_no_tensor_can_hold() {
    let states = |n: usize| StateContainerConfig {
        dim: 8,
        num_state_vectors: n,
        dim_head: 4,
        heads: 2,
        qk_rmsnorm: true,
        qk_rmsnorm_scale: None,
        gate: GateKind::Lstm,
        gates: GateConfiguration::Dual,
        ff_inner: n,
        init_std: 0.1,
    };
    let block = || AttentionBlockConfig { states: Some(states(3)), state_reads: 1, ..AttentionBlockConfig::new(8, 4) };
    let refused = |build: &dyn Fn(&mut Params)| {
        let mut params = Params::new(0);
        build(&mut params);
        assert!(matches!(params.error(), Some(Error::Limit { .. })), "{:?}", params.error());
        assert!(params.store(&Device::cpu()).is_err());
    };
    let most = usize::MAX;
    for config in [
        AttentionBlockConfig { heads: most, ..block() },
        AttentionBlockConfig { dim_head: most, ..block() },
        AttentionBlockConfig { state_reads: most, ..block() },
        AttentionBlockConfig { dim: most, ..AttentionBlockConfig::new(8, most) },
        AttentionBlockConfig { states: Some(states(most)), ..block() },
    ] {
        refused(&|params| drop(AttentionBlock::new(params, "", config.clone())));
    }
    refused(&|params| drop(FeedForward::new(params, "", 8, most)));
    refused(&|params| drop(Compression::new(params, "", 4, most, 4)));
    let mut params = Params::new(0);
    Compression::new(&mut params, "", 4, 0, 4);
    assert_eq!(params.get("weight").unwrap().shape()[..], [8, 4, 1]);
}

#[test]
fn options_no_model_can_have() {
    let says = |config: BlockRecurrentConfig, part: &str| {
        let error = BlockRecurrentTransformer::new(config).unwrap_err();
        assert!(matches!(error, Error::Argument { .. } | Error::Limit { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let t = tiny;
    says(BlockRecurrentConfig { recurrent_layers: Some(vec![3]), ..t() }, "layer 3 is out of range; expected 1 to 2");
    says(BlockRecurrentConfig { recurrent_layers: Some(vec![0]), ..t() }, "layer 0 is out of range");
    says(BlockRecurrentConfig { recurrent_layers: Some(vec![1, 1]), ..t() }, "twice");
    says(BlockRecurrentConfig { read_recurrent_layers: Some(vec![9]), ..t() }, "layer 9 is out of range");
    says(BlockRecurrentConfig { read_recurrent_layers: Some(vec![1, 2]), ..t() }, "2 readers for 1");
    let late = BlockRecurrentConfig { recurrent_layers: Some(vec![1]), read_recurrent_layers: Some(vec![2]), ..tiny() };
    says(late, "layer 2 reads what layer 1 writes");
    says(BlockRecurrentConfig { xl_memories_layers: Some(vec![4]), ..t() }, "layer 4 is out of range");
    says(super::long(&[3]), "layer 3 is out of range");
    says(BlockRecurrentConfig { dim: 16, ..super::long(&[1]) }, "a memory is of 8");
    says(BlockRecurrentConfig { max_seq_len: 10, ..t() }, "10 is no multiple of block_width 4");
    says(BlockRecurrentConfig { dim_head: 5, ..t() }, "5 is odd");
    says(BlockRecurrentConfig { compressed_mem_factor: Some(5), ..t() }, "5 is more than block_width 4");
    says(BlockRecurrentConfig { compressed_mem_factor: Some(0), ..t() }, "gives 0");
    says(BlockRecurrentConfig { num_state_vectors: Some(0), ..t() }, "num_state_vectors");
    says(BlockRecurrentConfig { heads: usize::MAX, ..t() }, "attention");
    says(BlockRecurrentConfig { depth: 0, ..t() }, "depth");
    // One layer: the package's own default writes no layer at all.
    let one = BlockRecurrentConfig { recurrent_layers: None, depth: 1, ..tiny() };
    assert_eq!(one.writers(), [1]);
    BlockRecurrentTransformer::new(one).unwrap();
}
