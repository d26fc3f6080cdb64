//! Operations defined outside the library, as its users may: each shows one promise of the `Op` trait.

use wgrad::error::{Refusal, Result};
use wgrad::graph::{Cotangent, Op, Vjp};
use wgrad::kernels::{CpuCall, Lower};
use wgrad::types::TensorType;

macro_rules! plain {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }
        fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
            cx.none()
        }
    };
}

/// `state + delta` in the state's own buffer.
#[derive(Debug)]
pub struct AddInPlace;

impl Op for AddInPlace {
    plain!("add in place");
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        let delta = call.f(1);
        call.out(0).iter_mut().zip(delta).for_each(|(o, d)| *o += d);
    }
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        let delta = call.f(1);
        call.out(0).iter_mut().zip(delta).for_each(|(o, d)| *o += d);
    }
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let text = "@group(0) @binding(0) var<storage, read> delta: array<f32>;
            @group(0) @binding(1) var<storage, read_write> out: array<f32>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                if (id.x < arrayLength(&out)) { out[id.x] += delta[id.x]; }
            }";
        let n = cx.outputs[0].numel();
        cx.generated("add in place", text).input(1).output(0).workgroups(n.div_ceil(64))
    }
}

/// Step number and seed of the run, u32 `[3]`.
#[derive(Debug)]
pub struct Run;

impl Op for Run {
    plain!("run");
    fn infer(&self, _: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![TensorType::u32([3])])
    }
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        let run = [call.step, call.seed as u32, (call.seed >> 32) as u32];
        call.out_u(0).copy_from_slice(&run);
    }
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        let run = [call.step, call.seed as u32, (call.seed >> 32) as u32];
        call.out_u(0).copy_from_slice(&run);
    }
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let text = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @group(0) @binding(1) var<uniform> run: vec4<u32>;
            @compute @workgroup_size(1) fn main() { for (var i = 0u; i < 3u; i++) { out[i] = run[i]; } }";
        cx.generated("run", text).output(0).globals().workgroups(1)
    }
}

/// Input 0, in its own buffer or not; the CPU twin panics where input 1 is negative, the kernel is no WGSL.
#[derive(Debug)]
pub struct Broken {
    pub in_place: bool,
}

impl Broken {
    fn refuse(found: bool) {
        assert!(!found, "a defect of an operation");
    }
}

impl Op for Broken {
    plain!("broken");
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        if self.in_place { &[(0, 0)] } else { &[] }
    }
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        Self::refuse(call.f(1).iter().any(|x| *x < 0.0));
        if !self.in_place {
            let x = call.f(0);
            call.out(0).copy_from_slice(x);
        }
    }
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        Self::refuse(call.f(1).iter().any(|x| *x < 0.0));
        if !self.in_place {
            let x = call.f(0);
            call.out(0).copy_from_slice(x);
        }
    }
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        cx.generated("broken", "fn main( {").output(0).workgroups(1)
    }
}
