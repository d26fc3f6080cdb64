//! How particles are drawn: points of added light, coloured by their angle.

use wgrad::wgpu;

pub const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

const SHADER: &str = "
struct Drawn { @builtin(position) position: vec4<f32>, @location(0) color: vec4<f32> }
@vertex fn vertex(@location(0) at: vec2<f32>) -> Drawn {
    let angle = atan2(at.y, at.x);
    let color = 0.55 + 0.45 * cos(vec3<f32>(angle, angle + 2.1, angle + 4.2));
    return Drawn(vec4<f32>(0.6 * at, 0.0, 1.0), vec4<f32>(color * 0.8, 1.0));
}
@fragment fn fragment(drawn: Drawn) -> @location(0) vec4<f32> { return drawn.color; }
";

pub fn pipeline(device: &wgpu::Device) -> wgpu::RenderPipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(SHADER.into()),
    });
    let attributes = wgpu::vertex_attr_array![0 => Float32x2];
    let vertex =
        wgpu::VertexBufferLayout { array_stride: 8, step_mode: wgpu::VertexStepMode::Vertex, attributes: &attributes };
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
    device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
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
    })
}
