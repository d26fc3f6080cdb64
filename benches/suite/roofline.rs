//! What the device can do, measured by programs of our own: copying at several sizes, and multiply-adds.

use crate::stats::median;
use crate::work::wait;
use rayon::prelude::*;
use std::time::Instant;
use wgrad::device::Gpu;
use wgrad::{Device, Error, Result};

/// Speeds of a device.
pub struct Roofline {
    /// Bytes read and written in one copy, and bytes a second.
    pub copies: Vec<(f64, f64)>,
    /// Operations a second.
    pub flops: f64,
}

/// Invocations that do multiply-adds, and operations of each.
const CHAINS: usize = 1 << 14;
const CHAIN: f64 = (2 * 4 * 8 * 512) as f64;

impl Roofline {
    pub fn measure(device: &Device, rounds: usize) -> Result<Roofline> {
        let most = device.as_gpu().map_or(u64::MAX, |gpu| gpu.capabilities().binding_bytes);
        let sizes = [1usize << 19, 1 << 22, 1 << 25, 1 << 27].into_iter().filter(|bytes| *bytes as u64 <= most);
        let mut copies = Vec::new();
        for bytes in sizes {
            let seconds = match device.as_gpu() {
                Some(gpu) => on_gpu(device, gpu, include_str!("shaders/copy.wgsl"), bytes, rounds)?,
                None => copy(bytes, rounds),
            };
            copies.push((2.0 * bytes as f64, 2.0 * bytes as f64 / seconds));
        }
        let flops = match device.as_gpu() {
            Some(gpu) => {
                let seconds = on_gpu(device, gpu, include_str!("shaders/fma.wgsl"), CHAINS * 16, rounds)?;
                CHAIN * CHAINS as f64 / seconds
            }
            None => multiply_adds(rounds),
        };
        Ok(Roofline { copies, flops })
    }

    /// Bytes a second of copies of about this size.
    fn bandwidth(&self, bytes: f64) -> f64 {
        let off = |(size, _): &&(f64, f64)| (size / bytes).ln().abs();
        self.copies.iter().min_by(|a, b| off(a).total_cmp(&off(b))).map_or(f64::NAN, |(_, speed)| *speed)
    }

    /// Seconds below which nothing can be that moves so much and does so much.
    pub fn seconds(&self, bytes: f64, flops: f64) -> f64 {
        (bytes / self.bandwidth(bytes)).max(flops / self.flops)
    }
}

impl std::fmt::Display for Roofline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bytes, speed) in &self.copies {
            write!(f, "copy of {:.0} MiB read and written {:.1} GB/s, ", bytes / 1048576.0, speed * 1e-9)?;
        }
        write!(f, "multiply-adds {:.1} GFLOP/s", self.flops * 1e-9)
    }
}

/// Median seconds of one dispatch over arrays of `bytes`: so many in one submit that the submit does not count.
fn on_gpu(device: &Device, gpu: &Gpu, text: &str, bytes: usize, rounds: usize) -> Result<f64> {
    let (d, queue) = gpu.wgpu();
    let buffer = || {
        d.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let (from, to) = (buffer(), buffer());
    queue.write_buffer(&from, 0, &vec![0u8; bytes]);
    let source = wgpu::ShaderSource::Wgsl(text.into());
    let module = d.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let pipeline = d.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let entry = |(binding, buffer)| wgpu::BindGroupEntry { binding, resource: wgpu::Buffer::as_entire_binding(buffer) };
    let group = d.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[(0, &from), (1, &to)].map(entry),
    });
    let groups = (bytes / 16).div_ceil(256) as u32;
    let (x, y) = (groups.min(65_535), groups.div_ceil(65_535));
    let run = |times: usize| -> Result<f64> {
        let start = Instant::now();
        let mut encoder = d.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        (0..times).for_each(|_| pass.dispatch_workgroups(x, y, 1));
        drop(pass);
        queue.submit([encoder.finish()]);
        wait(device)?;
        Ok(start.elapsed().as_secs_f64())
    };
    run(1)?;
    let mut times = 1;
    while run(times)? < 0.02 && times < 1 << 14 {
        times *= 2;
    }
    let mut all: Vec<f64> = (0..rounds).map(|_| Ok(run(times)? / times as f64)).collect::<Result<_>>()?;
    let seconds = median(&mut all);
    if seconds > 0.0 { Ok(seconds) } else { Err(Error::Device { message: "the roofline took no time".into() }) }
}

/// Median seconds of a copy of `bytes` by all threads.
fn copy(bytes: usize, rounds: usize) -> f64 {
    let from = vec![1f32; bytes / 4];
    let mut to = vec![0f32; bytes / 4];
    let piece = (from.len() / (8 * rayon::current_num_threads())).max(4096);
    let times = ((1 << 27) / bytes).max(1);
    let mut run = || {
        let start = Instant::now();
        for _ in 0..times {
            to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(&mut to);
        }
        start.elapsed().as_secs_f64() / times as f64
    };
    run();
    let mut all: Vec<f64> = (0..rounds).map(|_| run()).collect();
    median(&mut all)
}

/// Independent chains of one thread, and their length.
const LANES: usize = 96;
const STEPS: usize = 1 << 18;

struct Chains {
    factor: f32,
}

// Inlined where vector instructions are allowed: a closure might not be.
impl pulp::NullaryFnOnce for Chains {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let mut lanes = [1f32; LANES];
        for _ in 0..STEPS {
            for lane in &mut lanes {
                *lane = lane.mul_add(self.factor, 0.5);
            }
        }
        lanes.iter().sum()
    }
}

/// Operations a second of multiply-adds by all threads.
fn multiply_adds(rounds: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let run = || {
        let start = Instant::now();
        let sum: f32 = (0..8 * threads)
            .into_par_iter()
            .with_max_len(1)
            .map(|i| pulp::Arch::new().dispatch(Chains { factor: 0.5 + 1e-9 * i as f32 }))
            .sum();
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    };
    run();
    let mut all: Vec<f64> = (0..rounds).map(|_| run()).collect();
    (2 * LANES * STEPS * 8 * threads) as f64 / median(&mut all)
}
