//! A renderer and a model on one device: particles that a small network moves are drawn from the very buffer it moves them
//! in. Nothing is read back but the finished picture.
//!
//! `cargo run --release --example shared_device` writes `target/shared_device.png`.
//!
//! The renderer makes the device, with the limits that the model's program says it needs, and wgrad adopts it. The network
//! first learns a flow from noise to a spiral (flow matching, Lipman et al. 2023, arXiv 2210.02747). Then every frame is one
//! submit: the plan, recorded into the renderer's encoder, moves the particles in the renderer's vertex buffer, and a render
//! pass draws them. The picture has four panels, a quarter of the way each, with the trails of the frames.

mod flow;
mod picture;
mod pipeline;
mod renderer;

use anyhow::{Result, bail};
use clap::Parser;
use flow::Flow;
use renderer::Renderer;
use std::time::Instant;
use wgrad::nn::Params;
use wgrad::plan::Program;
use wgrad::{Device, Feed, Graph, Options, Store, Tensor, TensorType, wgpu};

/// Particles driven by a model, drawn on the same device.
#[derive(Parser)]
struct Args {
    /// Steps of training
    #[arg(long, default_value_t = 2000)]
    steps: u64,
    /// Particles
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    particles: u32,
    /// Frames
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(4..10_000))]
    frames: u32,
    /// Part of the adapter's name; hardware before software drivers if absent
    #[arg(long)]
    adapter: Option<String>,
    /// The picture
    #[arg(long, default_value = "target/shared_device.png")]
    out: std::path::PathBuf,
}

/// The renderer's own adapter and device, with what the program needs.
fn open(args: &Args, needed: &wgpu::Limits) -> Result<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let mut all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    all.sort_by_key(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    let wanted = args.adapter.as_deref().unwrap_or("").to_lowercase();
    let found = all.into_iter().find(|a| a.get_info().name.to_lowercase().contains(&wanted));
    let Some(adapter) = found else {
        println!("no GPU adapter \"{wanted}\": nothing to draw with");
        bail!("install a Vulkan, Metal or DX12 driver; a software driver will do");
    };
    let required_limits = needed.clone();
    let descriptor = wgpu::DeviceDescriptor { label: Some("renderer"), required_limits, ..Default::default() };
    Ok(pollster::block_on(adapter.request_device(&descriptor))?)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut params = Params::new(0);
    let flow = Flow::new(&mut params);
    // What the program needs is known before there is a device.
    let graph = Graph::new();
    flow::frame(&graph, &flow, &params, args.particles, args.frames);
    let needed = Program::build(&graph, &[], Options::default())?.requirements()?;
    print!("the model needs: {needed}");
    let (raw, queue) = open(&args, &needed.limits)?;
    let device = Device::from_wgpu(raw.clone(), queue.clone());
    println!("{device}");

    let renderer = Renderer::new(&raw, &queue, args.particles);
    let trainer = flow::train(&device, &flow, params, args.steps)?;
    let graph = Graph::new();
    flow::frame(&graph, &flow, trainer.params(), args.particles, args.frames);
    let plan = device.compile_blocking(&graph, &[])?;
    // The renderer's vertex buffer is the model's state.
    let store = Store::new(&device);
    store.adopt("particles", &TensorType::f32([args.particles as usize, 2]), renderer.vertices.clone())?;
    let start = Instant::now();
    for number in 0..args.frames {
        let time = Tensor::f32([1, 1], vec![number as f32 / args.frames as f32])?;
        let mut encoder = raw.create_command_encoder(&Default::default());
        plan.encode(&Feed::new().store(&store).store(trainer.store()).input("time", &time), &mut encoder)?;
        renderer.draw(&mut encoder, number, args.frames);
        queue.submit([encoder.finish()]);
    }
    raw.poll(wgpu::PollType::wait_indefinitely())?;
    let each = start.elapsed() / args.frames;
    println!("{} frames of {} particles, {each:.1?} each", args.frames, args.particles);
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    picture::write(&renderer.picture, &raw, &queue, &args.out)?;
    println!("{}", args.out.display());
    Ok(())
}
