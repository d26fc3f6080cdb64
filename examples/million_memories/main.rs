//! Routed cross attention from a thousand queries to a million memories, on a device that binds 128 MiB at a time.
//!
//! `cargo run --release --example million_memories`
//!
//! The memories (2 GB by default, 16 pieces) are never copied, normalized or projected as a whole: two learned routes score
//! them, and only the rows that a route picks become keys and values. Prints the time of a run forward, and of one with the
//! gradients of all parameters, the memory each needs beside the memories, and the largest buffer that is bound.
//!
//! A GPU is asked for the limits of every WebGPU device only; the CPU executor needs as much host memory.

mod measure;

use clap::Parser;
use measure::{measure, size};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use wgrad::models::conditional::{ConditionalRoutedCrossAttention, CrossAttentionConfig};
use wgrad::nn::{Params, ShardedType};
use wgrad::{DType, Device, GpuOptions, Graph, Result, Tensor, TensorType, Var};

/// Cross attention to a context that no binding holds.
#[derive(Parser)]
struct Args {
    /// Memories
    #[arg(long, default_value_t = 1_000_000)]
    memories: usize,
    /// Queries
    #[arg(long, default_value_t = 1_024)]
    queries: usize,
    /// Features of a query and of a memory
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// Routes: selections of memories, each for its own share of the eight heads
    #[arg(long, default_value_t = 2)]
    routes: usize,
    /// Queries that are routed
    #[arg(long, default_value_t = 256)]
    routed_queries: usize,
    /// Memories that each route picks
    #[arg(long, default_value_t = 4_096)]
    routed_memories: usize,
    /// Where to run: auto, cpu, or part of a GPU adapter's name; software drivers only when named
    #[arg(long, default_value = "auto")]
    device: String,
    /// Seed of parameters and memories
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn random(rng: &mut ChaCha8Rng, shape: [usize; 2]) -> Result<Tensor> {
    Tensor::f32(shape, (0..shape[0] * shape[1]).map(|_| rng.random::<f32>() * 3.4 - 1.7).collect())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = GpuOptions { portable_limits: true, ..Default::default() };
    let device = Device::named_blocking(&args.device, options)?;
    println!("device: {device}");
    let config = CrossAttentionConfig {
        kv_routing_tokens: args.routes,
        ..CrossAttentionConfig::new(args.dim, args.routed_queries, args.routed_memories)
    };
    let mut params = Params::new(args.seed);
    let model = ConditionalRoutedCrossAttention::new(&mut params, "", config)?;
    let ty = ShardedType::new(DType::F32, args.memories, args.dim)?;
    let bytes = args.memories as u64 * args.dim as u64 * 4;
    println!("{} memories of {}: {} in {} pieces", args.memories, args.dim, size(bytes), ty.shards().len());

    let store = params.store(&device)?;
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let queries = random(&mut rng, [args.queries, args.dim])?;
    let start = Instant::now();
    ty.set(&store, "memories", |rows| random(&mut rng, [rows.len(), args.dim]))?;
    println!("made and stored in {:.1} s", start.elapsed().as_secs_f64());

    for gradients in [false, true] {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let x = graph.input("queries", TensorType::f32([args.queries, args.dim])).unsqueeze(0);
        let out = model.forward_sharded(&p, x, &ty.state(&graph, "memories"), args.memories, &model.route());
        let loss = out.square().mean_all();
        let mut outputs = vec![("loss", loss)];
        if gradients {
            let wrt: Vec<Var<'_>> = params.names().map(|name| p.get(name)).collect();
            let all = graph.grad(loss, &wrt);
            outputs.extend(params.names().zip(&all).filter_map(|(name, g)| Some((name, g.dense()?))));
        }
        let plan = device.compile_blocking(&graph, &outputs)?;
        println!("{}:", if gradients { "forward, and gradients of all parameters" } else { "forward" });
        measure(&plan, &store, &queries, if gradients { "kv_router.routing_token" } else { "loss" })?;
    }
    Ok(())
}
