//! Operations with a kernel of the user's own: [`CustomOp`] has a whole one.
//!
//! ```
//! use wgrad::ops::custom::CustomOp;
//! use wgrad::{DType, Error};
//!
//! // A kernel is checked when the operation is made, without a device, and a mistake is named with its line.
//! let made = CustomOp::builder("half", "@compute @workgroup_size(64)\nfn main() { let x = ; }")
//!     .inputs([DType::F32])
//!     .outputs([DType::F32])
//!     .workgroups(|_, out| out[0].numel().div_ceil(64))
//!     .build();
//! assert!(matches!(made, Err(Error::ShaderCompile { line: Some(2), .. })));
//! ```

#[cfg(not(target_arch = "wasm32"))]
mod validate;

use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp};
use crate::kernels::{CpuCall, Lower, expand};
use crate::types::{DType, Real, Shape, TensorType};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);

type ShapeRule = dyn Fn(&[Shape]) -> Result<Vec<Shape>, Refusal> + Send + Sync;
type Constants = Vec<(&'static str, f64)>;
type BySize<R> = dyn Fn(&[Shape], &[Shape]) -> R + Send + Sync;
type Gradient = dyn for<'g> Fn(&Vjp<'g>) -> Vec<Option<Cotangent<'g>>> + Send + Sync;
type OnCpu<T> = dyn Fn(&mut CpuCall<'_, T>) + Send + Sync;

/// The CPU twin of a [`CustomOp`]: the same maths in plain Rust, for single precision, which runs where there is no GPU, and
/// for double, which checks compare with.
pub trait Twin: Send + Sync + 'static {
    /// Computes all elements of all outputs.
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>);
}

struct Spec {
    id: u64,
    name: &'static str,
    text: Arc<str>,
    inputs: Vec<DType>,
    outputs: Vec<DType>,
    shapes: Option<Box<ShapeRule>>,
    workgroups: Option<Box<BySize<usize>>>,
    constants: Constants,
    sized: Option<Box<BySize<Constants>>>,
    uniform: Option<Box<BySize<Vec<u32>>>>,
    globals: bool,
    vjp: Option<Box<Gradient>>,
    single: Option<Box<OnCpu<f32>>>,
    double: Option<Box<OnCpu<f64>>>,
}

/// An operation from a WGSL kernel of your own: a shape rule, where the kernel runs, how the gradient is built, and if you like
/// a CPU twin. Made with [`CustomOp::builder`], checked there, and used like any other operation. Make it once and keep it:
/// calls of one `CustomOp` on equal inputs merge, those of two do not.
///
/// ```
/// use wgrad::ops::custom::{CustomOp, Twin};
/// use wgrad::kernels::CpuCall;
/// use wgrad::types::Real;
/// use wgrad::{DType, Device, Feed, Graph, Tensor, TensorType};
///
/// const CUBE: &str = "
///     // #include \"shared/grid.wgsl\"
///     @group(0) @binding(0) var<storage, read> x: array<f32>;
///     @group(0) @binding(1) var<storage, read_write> y: array<f32>;
///     @compute @workgroup_size(64)
///     fn main(
///         @builtin(workgroup_id) wid: vec3<u32>,
///         @builtin(num_workgroups) wn: vec3<u32>,
///         @builtin(local_invocation_index) lid: u32,
///     ) {
///         let i = 64u * workgroup_index(wid, wn) + lid;
///         if (i < arrayLength(&y)) { y[i] = x[i] * x[i] * x[i]; }
///     }";
///
/// struct Cube;
/// impl Twin for Cube {
///     fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
///         let x = call.f(0);
///         call.out(0).iter_mut().zip(x).for_each(|(y, x)| *y = *x * *x * *x);
///     }
/// }
///
/// # fn main() -> wgrad::Result<()> {
/// let cube = CustomOp::builder("cube", CUBE)
///     .inputs([DType::F32])
///     .outputs([DType::F32])
///     .workgroups(|_, out| out[0].numel().div_ceil(64))
///     .vjp(|cx| cx.dense([cx.cotangent().map(|g| g * 3.0 * cx.inputs[0].square())]))
///     .cpu(Cube)
///     .build()?;
/// let graph = Graph::new();
/// let x = graph.input("x", TensorType::f32([3]));
/// let y = cube.apply(&[x])[0];
/// let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
/// plan.run(&Feed::new().input("x", &Tensor::f32([3], vec![1.0, 2.0, -3.0])?))?;
/// assert_eq!(plan.read_blocking("y")?.floats(), [1.0, 8.0, -27.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CustomOp(Arc<Spec>);

/// Describes a [`CustomOp`].
pub struct CustomOpBuilder {
    spec: Spec,
    source: String,
}

impl CustomOp {
    /// Begins with a name, which errors and printed plans show, and the kernel's text: one entry point `main`; the inputs
    /// are storage buffers from binding 0 on, for reading; the outputs follow, `read_write`; then the uniform and the step,
    /// if there are any. `arrayLength` of a buffer is the number of elements. `// #include "shared/grid.wgsl"` brings
    /// `workgroup_index`: grids of more than 65,535 workgroups are folded into two dimensions, and kernels find their
    /// number with it.
    pub fn builder(name: &'static str, wgsl: impl Into<String>) -> CustomOpBuilder {
        let spec = Spec {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            text: "".into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            shapes: None,
            workgroups: None,
            constants: Vec::new(),
            sized: None,
            uniform: None,
            globals: false,
            vjp: None,
            single: None,
            double: None,
        };
        CustomOpBuilder { spec, source: wgsl.into() }
    }

    /// Adds the operation to the graph of its inputs, of which there is at least one; else use
    /// [`Graph::apply`](crate::Graph::apply).
    #[track_caller]
    pub fn apply<'g>(&self, inputs: &[Var<'g>]) -> Vec<Var<'g>> {
        match inputs.first() {
            Some(first) => first.graph().apply(self.clone(), inputs),
            None => Vec::new(),
        }
    }
}

impl CustomOpBuilder {
    /// Element types of the inputs. Others are refused when the operation is used.
    pub fn inputs(mut self, types: impl Into<Vec<DType>>) -> Self {
        self.spec.inputs = types.into();
        self
    }

    /// Element types of the outputs.
    pub fn outputs(mut self, types: impl Into<Vec<DType>>) -> Self {
        self.spec.outputs = types.into();
        self
    }

    /// Shapes of the outputs from those of the inputs, or why these do not fit ([`Refusal::shape`]). Without a rule all
    /// outputs have the shape of the first input, and all inputs must have it too.
    pub fn shapes(mut self, rule: impl Fn(&[Shape]) -> Result<Vec<Shape>, Refusal> + Send + Sync + 'static) -> Self {
        self.spec.shapes = Some(Box::new(rule));
        self
    }

    /// Number of workgroups for shapes of inputs and outputs; none are dispatched for 0.
    pub fn workgroups(mut self, count: impl Fn(&[Shape], &[Shape]) -> usize + Send + Sync + 'static) -> Self {
        self.spec.workgroups = Some(Box::new(count));
        self
    }

    /// Sets an `override` constant.
    pub fn constant(mut self, name: &'static str, value: f64) -> Self {
        self.spec.constants.push((name, value));
        self
    }

    /// Sets `override` constants that depend on the shapes of inputs and outputs. Each combination is a pipeline of its own.
    pub fn constants(
        mut self,
        of: impl Fn(&[Shape], &[Shape]) -> Vec<(&'static str, f64)> + Send + Sync + 'static,
    ) -> Self {
        self.spec.sized = Some(Box::new(of));
        self
    }

    /// Words of a uniform struct of scalars (floats by their bits), bound after the outputs.
    pub fn uniform(mut self, words: impl Fn(&[Shape], &[Shape]) -> Vec<u32> + Send + Sync + 'static) -> Self {
        self.spec.uniform = Some(Box::new(words));
        self
    }

    /// Binds step and seed of the run as a `vec4<u32>` last: step, low and high word of the seed, and
    /// the rank where several share a batch ([`Feed::rank`](crate::Feed::rank)), else 0.
    pub fn step_and_seed(mut self) -> Self {
        self.spec.globals = true;
        self
    }

    /// Builds the cotangents of the inputs, one for each, `None` for zero, in graph operations, other `CustomOp`s included.
    /// Without it a gradient through the operation is an error.
    pub fn vjp(
        mut self,
        build: impl for<'g> Fn(&Vjp<'g>) -> Vec<Option<Cotangent<'g>>> + Send + Sync + 'static,
    ) -> Self {
        self.spec.vjp = Some(Box::new(build));
        self
    }

    /// Gives it a CPU twin. Without one the CPU executor refuses plans with the operation.
    pub fn cpu(mut self, twin: impl Twin) -> Self {
        let twin = Arc::new(twin);
        let other = twin.clone();
        self.spec.single = Some(Box::new(move |call| twin.run(call)));
        self.spec.double = Some(Box::new(move |call| other.run(call)));
        self
    }

    /// Checks the description. Natively the kernel is parsed and validated here, and compared with what will be bound:
    /// [`Error::ShaderCompile`] names the line of the text. In a browser its own compiler does so when a plan is compiled.
    ///
    /// # Errors
    /// [`Error::Argument`] if outputs or workgroups are missing, or for more than 8 inputs and outputs;
    /// [`Error::ShaderCompile`], with the line of the text, for an include that is not there and natively for a kernel
    /// that is not valid or does not fit the description.
    pub fn build(self) -> Result<CustomOp> {
        let CustomOpBuilder { mut spec, source } = self;
        let name = spec.name;
        if spec.outputs.is_empty() {
            return Err(Error::argument(name, "has no outputs; name their element types with outputs"));
        }
        if spec.workgroups.is_none() {
            return Err(Error::argument(name, "how many workgroups it needs is missing; say so with workgroups"));
        }
        let buffers = spec.inputs.len() + spec.outputs.len();
        if buffers > 8 {
            let message = format!("has {buffers} inputs and outputs; every device binds 8 at once, many no more");
            return Err(Error::argument(name, message));
        }
        spec.text = expand(name, &source)?.into();
        #[cfg(not(target_arch = "wasm32"))]
        validate::kernel(&spec, &source)?;
        Ok(CustomOp(Arc::new(spec)))
    }
}

/// The shape of the first input, if all have it.
fn alike(inputs: &[Shape], outputs: usize) -> Result<Vec<Shape>, Refusal> {
    match inputs {
        [] => Refusal::shape("has no inputs to take a shape from; give it a rule with CustomOpBuilder::shapes"),
        [first, rest @ ..] if rest.iter().all(|s| s == first) => Ok(vec![first.clone(); outputs]),
        _ => Refusal::shape("expected inputs of one shape; for others give a rule with CustomOpBuilder::shapes"),
    }
}

impl std::fmt::Debug for CustomOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CustomOp({} #{})", self.0.name, self.0.id)
    }
}

impl Op for CustomOp {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn attributes(&self) -> String {
        let Spec { name, text, inputs, outputs, constants, globals, .. } = &*self.0;
        format!("CustomOp({name} {inputs:?} {outputs:?} {constants:?} {globals} {text})")
    }

    fn outputs(&self) -> usize {
        self.0.outputs.len()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let spec = &*self.0;
        if inputs.len() != spec.inputs.len() {
            return Refusal::shape(format!("expected {} inputs, got {}", spec.inputs.len(), inputs.len()));
        }
        for (i, (input, dtype)) in inputs.iter().zip(&spec.inputs).enumerate() {
            input.require(*dtype, &format!("input {i} was declared so"))?;
        }
        let shapes: Vec<Shape> = inputs.iter().map(|t| t.shape.clone()).collect();
        let found = match &spec.shapes {
            Some(rule) => rule(&shapes)?,
            None => alike(&shapes, spec.outputs.len())?,
        };
        if found.len() != spec.outputs.len() {
            let message = format!("its rule gives {} shapes for {} outputs", found.len(), spec.outputs.len());
            return Refusal::shape(message);
        }
        Ok(found.into_iter().zip(&spec.outputs).map(|(shape, dtype)| TensorType { dtype: *dtype, shape }).collect())
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(build) = &self.0.vjp else {
            let message = "is not defined; give it with CustomOpBuilder::vjp, or stop the gradient before it";
            cx.graph.fail(Error::argument(format!("gradient of {}", self.0.name), message));
            return cx.none();
        };
        let grads = build(cx);
        if grads.len() != cx.inputs.len() {
            let message = format!(
                "expected {} cotangents, one for each input, got {}; None stands for an input that gets none",
                cx.inputs.len(),
                grads.len()
            );
            cx.graph.fail(Error::argument(format!("gradient of {}", self.0.name), message));
            return cx.none();
        }
        grads
    }

    fn on_cpu(&self) -> bool {
        self.0.single.is_some()
    }

    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        if let Some(run) = &self.0.single {
            run(call);
        }
    }

    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        if let Some(run) = &self.0.double {
            run(call);
        }
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let spec = &*self.0;
        let shapes =
            |operands: &[crate::types::Operand]| -> Vec<Shape> { operands.iter().map(|o| o.shape().clone()).collect() };
        let (inputs, outputs) = (shapes(cx.inputs), shapes(cx.outputs));
        let count = spec.workgroups.as_ref().map_or(0, |f| f(&inputs, &outputs));
        let mut d = cx.generated(spec.name, spec.text.clone());
        for i in 0..inputs.len() {
            d = d.input(i);
        }
        for o in 0..outputs.len() {
            d = d.output(o);
        }
        let sized = spec.sized.as_ref().map(|f| f(&inputs, &outputs)).unwrap_or_default();
        for (name, value) in spec.constants.iter().copied().chain(sized) {
            d = d.constant(name, value);
        }
        if let Some(words) = &spec.uniform {
            d = d.words(&words(&inputs, &outputs));
        }
        if spec.globals {
            d = d.globals();
        }
        d.workgroups(count)
    }
}
