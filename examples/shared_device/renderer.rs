//! The renderer, which knows nothing of the model: particles of one vertex buffer, added to the panels of a picture.

use crate::flow::normal;
use crate::pipeline::{FORMAT, pipeline};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wgrad::wgpu;

/// Pixels of a panel's side.
pub const SIDE: u32 = 320;
pub const PANELS: u32 = 4;

pub struct Renderer {
    pipeline: wgpu::RenderPipeline,
    pub picture: wgpu::Texture,
    /// Where the particles are; the model moves them here.
    pub vertices: wgpu::Buffer,
}

impl Renderer {
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, particles: u32) -> Renderer {
        let pipeline = pipeline(device);
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
    pub fn draw(&self, encoder: &mut wgpu::CommandEncoder, frame: u32, frames: u32) {
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
        let panel = frame * PANELS / frames;
        pass.set_viewport((panel * SIDE) as f32, 0.0, SIDE as f32, SIDE as f32, 0.0, 1.0);
        // Faint on the way, bright at the end of a panel.
        let last = (frame + 1) * PANELS / frames > panel;
        let light = if last { 0.5 } else { 0.01 };
        pass.set_blend_constant(wgpu::Color { r: light, g: light, b: light, a: 1.0 });
        pass.set_pipeline(&self.pipeline);
        pass.set_vertex_buffer(0, self.vertices.slice(..));
        pass.draw(0..(self.vertices.size() / 8) as u32, 0..1);
    }
}
