//! A renderer and a model on one device: particles that a small network moves are drawn from the very buffer it moves them
//! in. Nothing is read back but the finished picture.
//!
//! `cargo run --release --example shared_device` writes `target/shared_device.png`.
//!
//! The renderer makes the device, with the limits that the model's program says it needs, and wgrad adopts it. The network
//! first learns a flow from noise to a spiral (flow matching, Lipman et al. 2023, arXiv 2210.02747). Then every frame is one
//! submit: the plan, recorded into the renderer's encoder, moves the particles in the renderer's vertex buffer, and a render
//! pass draws them. The picture has four panels, a quarter of the way each, with the trails of the frames.

use anyhow::{Context, Result, bail};
use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use wgrad::nn::{Linear, ParamVars, Params};
use wgrad::plan::Program;
use wgrad::train::{Adam, Trainer};
use wgrad::{Device, Feed, Graph, Options, Store, Tensor, TensorType, Var, wgpu};

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

/// Examples of a training step.
const BATCH: usize = 512;
/// Pixels of a panel's side.
const SIDE: u32 = 256;
const PANELS: u32 = 4;
const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

const SHADER: &str = "
struct Drawn { @builtin(position) position: vec4<f32>, @location(0) color: vec4<f32> }
@vertex fn vertex(@location(0) at: vec2<f32>) -> Drawn {
    let angle = atan2(at.y, at.x);
    let color = 0.55 + 0.45 * cos(vec3<f32>(angle, angle + 2.1, angle + 4.2));
    return Drawn(vec4<f32>(0.6 * at, 0.0, 1.0), vec4<f32>(color * 0.8, 1.0));
}
@fragment fn fragment(drawn: Drawn) -> @location(0) vec4<f32> { return drawn.color; }
";

/// The velocity of points at a time: two hidden layers.
struct Flow {
    layers: [Linear; 3],
}

impl Flow {
    fn new(params: &mut Params) -> Flow {
        let mut layer = |name, inputs, outputs| Linear::new(params, name, inputs, outputs, true);
        Flow { layers: [layer("in", 3, 64), layer("hidden", 64, 64), layer("out", 64, 2)] }
    }

    /// Points `[n, 2]` and times `[n, 1]` to velocities `[n, 2]`.
    fn velocity<'g>(&self, p: &ParamVars<'g>, points: Var<'g>, times: Var<'g>) -> Var<'g> {
        let [first, second, last] = &self.layers;
        let x = first.forward(p, points.concat(&[times], 1)).silu();
        last.forward(p, second.forward(p, x).silu())
    }
}

/// A graph that moves the particles in place by one frame.
fn frame(graph: &Graph, flow: &Flow, params: &Params, args: &Args) {
    let n = args.particles as usize;
    let points = graph.state("particles", TensorType::f32([n, 2]));
    let time = graph.input("time", TensorType::f32([1, 1])).expand([n, 1]);
    let velocity = flow.velocity(&params.vars(graph), points, time);
    graph.assign(points, points + velocity / f64::from(args.frames));
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // Sum of uniform numbers: near enough.
    (0..6).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * std::f32::consts::SQRT_2
}

/// A point of a spiral with three arms.
fn spiral(rng: &mut ChaCha8Rng) -> [f32; 2] {
    let (along, arm) = (rng.random::<f32>(), rng.random_range(0..3) as f32);
    let angle = 3.5 * along + arm * std::f32::consts::TAU / 3.0;
    let radius = 0.15 + 1.2 * along;
    [radius * angle.cos() + 0.03 * normal(rng), radius * angle.sin() + 0.03 * normal(rng)]
}

fn train(device: &Device, flow: &Flow, params: Params, steps: u64) -> Result<Trainer> {
    let mut trainer = Trainer::builder(device, params, Adam::default().lr(3e-3)).compile_blocking(|graph, p| {
        let from = graph.input("noise", TensorType::f32([BATCH, 2]));
        let to = graph.input("data", TensorType::f32([BATCH, 2]));
        let time = graph.input("time", TensorType::f32([BATCH, 1]));
        let between = from + (to - from) * time;
        (flow.velocity(p, between, time) - (to - from)).square().mean_all()
    })?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for step in 0..steps {
        let noise = Tensor::f32([BATCH, 2], (0..2 * BATCH).map(|_| normal(&mut rng)).collect())?;
        let data = Tensor::f32([BATCH, 2], (0..BATCH).flat_map(|_| spiral(&mut rng)).collect())?;
        let time = Tensor::f32([BATCH, 1], (0..BATCH).map(|_| rng.random()).collect())?;
        trainer.step(&[("noise", &noise), ("data", &data), ("time", &time)])?;
        if step % 400 == 399 {
            println!("step {}: loss {:.3}", step + 1, trainer.loss_blocking()?);
        }
    }
    Ok(trainer)
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

struct Renderer {
    pipeline: wgpu::RenderPipeline,
    picture: wgpu::Texture,
    vertices: wgpu::Buffer,
}

impl Renderer {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue, particles: u32) -> Renderer {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(SHADER.into()),
        });
        let attributes = wgpu::vertex_attr_array![0 => Float32x2];
        let vertex = wgpu::VertexBufferLayout {
            array_stride: 8,
            step_mode: wgpu::VertexStepMode::Vertex,
            attributes: &attributes,
        };
        let light = wgpu::BlendComponent {
            src_factor: wgpu::BlendFactor::Constant,
            dst_factor: wgpu::BlendFactor::One,
            operation: wgpu::BlendOperation::Add,
        };
        let target = wgpu::ColorTargetState {
            format: FORMAT,
            blend: Some(wgpu::BlendState { color: light, alpha: wgpu::BlendComponent::REPLACE }),
            write_mask: wgpu::ColorWrites::ALL,
        };
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("particles"),
            layout: None,
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: None,
                compilation_options: Default::default(),
                buffers: &[Some(vertex)],
            },
            primitive: wgpu::PrimitiveState { topology: wgpu::PrimitiveTopology::PointList, ..Default::default() },
            depth_stencil: None,
            multisample: Default::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: None,
                compilation_options: Default::default(),
                targets: &[Some(target)],
            }),
            multiview_mask: None,
            cache: None,
        });
        let size = wgpu::Extent3d { width: SIDE * PANELS, height: SIDE, depth_or_array_layers: 1 };
        let picture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("picture"),
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let vertices = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("particles"),
            size: u64::from(particles) * 8,
            usage: wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let noise: Vec<f32> = (0..2 * particles).map(|_| normal(&mut rng)).collect();
        queue.write_buffer(&vertices, 0, bytemuck::cast_slice(&noise));
        Renderer { pipeline, picture, vertices }
    }

    /// Adds the particles to a panel.
    fn draw(&self, encoder: &mut wgpu::CommandEncoder, frame: u32, args: &Args) {
        let view = self.picture.create_view(&Default::default());
        let load = if frame == 0 { wgpu::LoadOp::Clear(wgpu::Color::BLACK) } else { wgpu::LoadOp::Load };
        let attachment = wgpu::RenderPassColorAttachment {
            view: &view,
            depth_slice: None,
            resolve_target: None,
            ops: wgpu::Operations { load, store: wgpu::StoreOp::Store },
        };
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some("frame"),
            color_attachments: &[Some(attachment)],
            ..Default::default()
        });
        let panel = frame * PANELS / args.frames;
        pass.set_viewport((panel * SIDE) as f32, 0.0, SIDE as f32, SIDE as f32, 0.0, 1.0);
        // Faint on the way, bright at the end of a panel.
        let last = (frame + 1) * PANELS / args.frames > panel;
        let light = if last { 1.0 } else { 0.01 };
        pass.set_blend_constant(wgpu::Color { r: light, g: light, b: light, a: 1.0 });
        pass.set_pipeline(&self.pipeline);
        pass.set_vertex_buffer(0, self.vertices.slice(..));
        pass.draw(0..args.particles, 0..1);
    }

    /// The only read-back: the finished picture.
    fn write(&self, device: &wgpu::Device, queue: &wgpu::Queue, path: &std::path::Path) -> Result<()> {
        let (width, height) = (SIDE * PANELS, SIDE);
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(width * height * 4),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        // Rows of 4,096 bytes: a multiple of 256, as copies of textures need.
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width * 4), rows_per_image: None };
        encoder.copy_texture_to_buffer(
            self.picture.as_image_copy(),
            wgpu::TexelCopyBufferInfo { buffer: &staging, layout },
            self.picture.size(),
        );
        queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        device.poll(wgpu::PollType::wait_indefinitely())?;
        let pixels = staging.get_mapped_range(..)?;
        let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut png = png::Encoder::new(std::io::BufWriter::new(file), width, height);
        png.set_color(png::ColorType::Rgba);
        png.write_header()?.write_image_data(&pixels)?;
        Ok(())
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut params = Params::new(0);
    let flow = Flow::new(&mut params);
    // What the program needs is known before there is a device.
    let graph = Graph::new();
    frame(&graph, &flow, &params, &args);
    let needed = Program::build(&graph, &[], Options::default())?.requirements()?;
    print!("the model needs: {needed}");
    let (raw, queue) = open(&args, &needed.limits)?;
    let device = Device::from_wgpu(raw.clone(), queue.clone());
    println!("{device}");

    let renderer = Renderer::new(&raw, &queue, args.particles);
    let trainer = train(&device, &flow, params, args.steps)?;
    let graph = Graph::new();
    frame(&graph, &flow, trainer.params(), &args);
    let plan = device.compile_blocking(&graph, &[])?;
    // The renderer's vertex buffer is the model's state.
    let store = Store::new(&device);
    store.adopt("particles", &TensorType::f32([args.particles as usize, 2]), renderer.vertices.clone())?;
    let start = Instant::now();
    for number in 0..args.frames {
        let time = Tensor::f32([1, 1], vec![number as f32 / args.frames as f32])?;
        let mut encoder = raw.create_command_encoder(&Default::default());
        plan.encode(&Feed::new().store(&store).store(trainer.store()).input("time", &time), &mut encoder)?;
        renderer.draw(&mut encoder, number, &args);
        queue.submit([encoder.finish()]);
    }
    raw.poll(wgpu::PollType::wait_indefinitely())?;
    let each = start.elapsed() / args.frames;
    println!("{} frames of {} particles, {each:.1?} each", args.frames, args.particles);
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    renderer.write(&raw, &queue, &args.out)?;
    println!("{}", args.out.display());
    Ok(())
}
