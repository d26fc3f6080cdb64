//! The only read-back.

use anyhow::{Context, Result};
use std::path::Path;
use wgrad::wgpu;

/// Copies the finished picture to the host, and writes it as PNG.
pub fn write(texture: &wgpu::Texture, device: &wgpu::Device, queue: &wgpu::Queue, path: &Path) -> Result<()> {
    let (width, height) = (texture.width(), texture.height());
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
        texture.as_image_copy(),
        wgpu::TexelCopyBufferInfo { buffer: &staging, layout },
        texture.size(),
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
