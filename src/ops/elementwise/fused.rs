//! A straight-line elementwise program: what fusion makes of chains of elementwise operations, and how a single one
//! runs. One generated kernel on the GPU, blocks of registers on the CPU.

use super::Scalar;
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Vjp};
use crate::kernels::scalar::{iota, select, to_floats};
use crate::kernels::walk::Walk;
use crate::kernels::{CpuCall, CpuInput, Lower, Slice, SliceMut, expand, par};
use crate::types::{DType, Layout, Operand, Real, Shape, TensorType};
use encase::ShaderType;
use glam::UVec4;
use std::fmt::Write;

/// Argument of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Input of the program.
    Input(usize),
    /// Result of an earlier node.
    Node(usize),
}

/// A straight-line program over broadcast inputs; all outputs have the shape of the iteration.
#[derive(Clone, Debug)]
pub struct Fused {
    /// Nodes in order; arguments come before their users.
    pub nodes: Vec<(Scalar, Vec<Argument>)>,
    /// Nodes whose results are stored.
    pub results: Vec<usize>,
}

/// Elements that one block of the CPU twin holds in registers.
const BLOCK: usize = 512;
/// Elements that one thread takes at a time.
const PIECE: usize = BLOCK * 32;
/// Dimensions after merging that the kernel indexes.
const RANK: usize = 8;
/// Invocations of a workgroup.
const WIDTH: usize = 64;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    dims: [UVec4; 2],
    offsets: [UVec4; 2],
    /// Strides of input i, dimension d at [2 i + d / 4][d % 4].
    strides: [UVec4; 16],
}

impl Fused {
    /// One function over its inputs.
    pub fn single(scalar: Scalar, inputs: usize) -> Self {
        Fused { nodes: vec![(scalar, (0..inputs).map(Argument::Input).collect())], results: vec![0] }
    }

    fn dtypes(&self, inputs: &[DType]) -> Vec<DType> {
        let mut types: Vec<DType> = Vec::with_capacity(self.nodes.len());
        for (scalar, args) in &self.nodes {
            let args: Vec<DType> = args
                .iter()
                .map(|a| match a {
                    Argument::Input(i) => inputs[*i],
                    Argument::Node(i) => types[*i],
                })
                .collect();
            types.push(scalar.dtype(&args));
        }
        types
    }

    /// CPU twin.
    pub fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let dtypes: Vec<DType> = call
            .inputs
            .iter()
            .map(|i| if matches!(i.data, Slice::Float(_)) { DType::F32 } else { DType::U32 })
            .collect();
        let types = self.dtypes(&dtypes);
        let Some(shape) = call.outputs.first().map(|o| o.shape.clone()) else {
            return;
        };
        let inputs: Vec<Input<'_, T>> = call.inputs.iter().map(|i| Input::new(i, &shape)).collect();
        // All outputs, cut at the same places.
        let mut rest: Vec<SliceMut<'_, T>> = (0..self.results.len()).map(|i| call.take_any(i)).collect();
        let starts = (0..shape.numel()).step_by(PIECE);
        let pieces = starts.map(|start| {
            let len = PIECE.min(shape.numel() - start);
            (start, len, rest.iter_mut().map(|out| out.split_off(len)).collect::<Vec<_>>())
        });
        par::consume(pieces.collect(), |(start, len, mut outputs)| {
            let mut regs = Registers::new(self, &inputs, &types);
            for block in (0..len).step_by(BLOCK) {
                let n = BLOCK.min(len - block);
                regs.load(&inputs, start + block, n);
                regs.run(self, start + block, n);
                for (output, &node) in outputs.iter_mut().zip(&self.results) {
                    match output {
                        SliceMut::Float(o) => o[block..block + n].copy_from_slice(&regs.float(node)[..n]),
                        SliceMut::Int(o) => o[block..block + n].copy_from_slice(&regs.int(node)[..n]),
                    }
                }
            }
        });
    }
}

/// Registers of one thread: inputs first, then nodes, in two files by element type.
struct Registers<T> {
    floats: Vec<T>,
    ints: Vec<u32>,
    /// Register of each input and node: whether it is a float, and its number in its file.
    inputs: Vec<(bool, usize)>,
    nodes: Vec<(bool, usize)>,
}

impl<T: Real> Registers<T> {
    fn new(program: &Fused, inputs: &[Input<'_, T>], types: &[DType]) -> Self {
        let (mut f, mut i) = (0, 0);
        let mut place = |float: bool| {
            let counter = if float { &mut f } else { &mut i };
            *counter += 1;
            (float, *counter - 1)
        };
        let inputs = inputs.iter().map(|w| place(matches!(w.data, Slice::Float(_)))).collect();
        let nodes = types.iter().map(|t| place(*t == DType::F32)).collect();
        debug_assert_eq!(types.len(), program.nodes.len());
        Registers { floats: vec![T::ZERO; f * BLOCK], ints: vec![0; i * BLOCK], inputs, nodes }
    }

    fn float(&self, node: usize) -> &[T] {
        let (_, r) = self.nodes[node];
        &self.floats[r * BLOCK..(r + 1) * BLOCK]
    }

    fn int(&self, node: usize) -> &[u32] {
        let (_, r) = self.nodes[node];
        &self.ints[r * BLOCK..(r + 1) * BLOCK]
    }

    fn load(&mut self, inputs: &[Input<'_, T>], start: usize, n: usize) {
        for (input, &(_, r)) in inputs.iter().zip(&self.inputs) {
            match input.data {
                Slice::Float(d) => input.walk.load(d, start, &mut self.floats[r * BLOCK..r * BLOCK + n]),
                Slice::Int(d) => input.walk.load(d, start, &mut self.ints[r * BLOCK..r * BLOCK + n]),
            }
        }
    }

    fn run(&mut self, program: &Fused, start: usize, n: usize) {
        for (i, (scalar, args)) in program.nodes.iter().enumerate() {
            let place = |a: &Argument| match a {
                Argument::Input(i) => self.inputs[*i],
                Argument::Node(i) => self.nodes[*i],
            };
            let mut places = [(false, 0); 3];
            places.iter_mut().zip(args).for_each(|(to, a)| *to = place(a));
            let (float, r) = self.nodes[i];
            if matches!(scalar, Scalar::Select) {
                self.select(places, float, r, n);
                continue;
            }
            if let Scalar::Iota { inner, extent } = scalar {
                iota(*inner, *extent, start, &mut self.ints[r * BLOCK..r * BLOCK + n]);
                continue;
            }
            let float_args = if args.is_empty() { float } else { places[0].0 };
            if float {
                let (done, rest) = self.floats.split_at_mut(r * BLOCK);
                if float_args {
                    scalar.floats(arguments(done, places, n), &mut rest[..n]);
                } else {
                    let [x, _, _] = arguments(&self.ints, places, n);
                    to_floats(x, &mut rest[..n]);
                }
            } else if float_args {
                scalar.test(arguments(&self.floats, places, n), &mut self.ints[r * BLOCK..r * BLOCK + n]);
            } else {
                let (done, rest) = self.ints.split_at_mut(r * BLOCK);
                scalar.ints(arguments(done, places, n), &mut rest[..n]);
            }
        }
    }

    fn select(&mut self, places: [(bool, usize); 3], float: bool, r: usize, n: usize) {
        if float {
            let (done, rest) = self.floats.split_at_mut(r * BLOCK);
            let ([mask, ..], [_, a, b]) = (arguments(&self.ints, places, n), arguments(done, places, n));
            select(mask, a, b, &mut rest[..n]);
        } else {
            let (done, rest) = self.ints.split_at_mut(r * BLOCK);
            let [mask, a, b] = arguments(done, places, n);
            select(mask, a, b, &mut rest[..n]);
        }
    }
}

/// The registers of up to three arguments; what names another file or nothing is not read.
fn arguments<E>(file: &[E], places: [(bool, usize); 3], n: usize) -> [&[E]; 3] {
    places.map(|(_, p)| file.get(p * BLOCK..p * BLOCK + n).unwrap_or_default())
}

/// Reads an input in the order of the iteration.
struct Input<'a, T> {
    data: Slice<'a, T>,
    walk: Walk,
}

impl<'a, T: Real> Input<'a, T> {
    fn new(input: &CpuInput<'a, T>, shape: &Shape) -> Self {
        Input { data: input.data, walk: Walk::new(&input.layout.broadcast(input.shape, shape), shape) }
    }
}

impl Op for Fused {
    fn name(&self) -> &'static str {
        if self.nodes.len() == 1 { self.nodes[0].0.name() } else { "fused" }
    }

    fn outputs(&self) -> usize {
        self.results.len()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let mut shape = Shape::default();
        for t in inputs {
            shape = shape.broadcast(&t.shape)?;
        }
        let types = self.dtypes(&inputs.iter().map(|t| t.dtype).collect::<Vec<_>>());
        Ok(self.results.iter().map(|r| TensorType { dtype: types[*r], shape: shape.clone() }).collect())
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        // Made by the planner after differentiation; never on a tape.
        cx.none()
    }

    fn strided(&self, _: usize) -> bool {
        true
    }

    fn operations(&self, _: &[Operand], outputs: &[Operand]) -> u64 {
        self.nodes.len() as u64 * outputs[0].numel() as u64
    }

    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        self.cpu(call);
    }

    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        self.cpu(call);
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let shape = cx.outputs[0].shape().clone();
        let layouts: Vec<Layout> = cx.inputs.iter().map(|i| i.layout.broadcast(i.shape(), &shape)).collect();
        let out = Layout::contiguous(&shape);
        let mut all: Vec<&Layout> = layouts.iter().collect();
        all.push(&out);
        let (dims, strides) = Layout::collapse(&shape, &all);
        if dims.len() > RANK {
            return Err(crate::Error::Limit {
                limit: "dimensions of an elementwise operation".into(),
                needed: dims.len() as u64,
                available: RANK as u64,
                hint: "make the inputs dense or merge dimensions with reshape".into(),
            });
        }
        let wide = dims.last().is_some_and(|n| n.is_multiple_of(4));
        let ways: Vec<Way> =
            (0..cx.inputs.len()).map(|i| Way::new(&dims, &strides[i], wide, cx.lead(&cx.inputs[i]))).collect();
        let dtypes: Vec<DType> = cx.inputs.iter().map(|i| i.ty.dtype).collect();
        let text = self.text(&dtypes, &ways, dims.len(), wide);
        let invocations = if wide { shape.numel() / 4 } else { shape.numel() };
        let mut meta = Meta {
            n: invocations as u32,
            dims: [UVec4::ONE; 2],
            offsets: [UVec4::ZERO; 2],
            strides: [UVec4::ZERO; 16],
        };
        for (d, extent) in dims.iter().enumerate() {
            meta.dims[d / 4][d % 4] = *extent as u32;
        }
        for (i, (input, strides)) in cx.inputs.iter().zip(&strides).enumerate() {
            meta.offsets[i / 4][i % 4] = cx.lead(input) as u32;
            for (d, s) in strides.iter().enumerate() {
                meta.strides[2 * i + d / 4][d % 4] = *s as u32;
            }
        }
        let text = expand("fused", &text)?;
        let (inputs, outputs) = (cx.inputs.len(), cx.outputs.len());
        let mut dispatch = cx.generated("elementwise", text);
        for i in 0..inputs {
            dispatch = dispatch.input(i);
        }
        for o in 0..outputs {
            dispatch = dispatch.output(o);
        }
        dispatch.uniform(&meta).workgroups(invocations.div_ceil(WIDTH))
    }
}

/// How a kernel finds the elements of an input.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    place: Place,
    /// What an invocation loads there.
    load: Load,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// At the linear index.
    Dense,
    /// Always the same element.
    Single,
    /// Through its strides.
    Strided,
}

#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// One element, for all four of an invocation where it has four.
    One,
    /// Four next to each other, which are bound as such.
    Four,
    /// Four at the stride of the last dimension.
    Apart,
}

impl Way {
    /// `wide` invocations compute four elements along the last dimension.
    fn new(dims: &[usize], strides: &[usize], wide: bool, lead: usize) -> Way {
        let dense = Layout { offset: 0, strides: strides.to_vec() }.is_dense(dims);
        let place = match strides {
            _ if dense => Place::Dense,
            _ if strides.iter().all(|s| *s == 0) => Place::Single,
            _ => Place::Strided,
        };
        let load = match strides {
            _ if !wide => Load::One,
            [.., 0] => Load::One,
            [others @ .., 1] if lead.is_multiple_of(4) && others.iter().all(|s| s.is_multiple_of(4)) => Load::Four,
            _ => Load::Apart,
        };
        Way { place, load }
    }
}

fn wgsl_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::U32 => "u32",
    }
}

impl Fused {
    /// WGSL text; equal programs over equal access patterns share it, and with it the pipeline.
    fn text(&self, inputs: &[DType], ways: &[Way], rank: usize, wide: bool) -> String {
        let mut t = String::from("// #include \"shared/grid.wgsl\"\n// #include \"shared/numerics.wgsl\"\n");
        self.declare(&mut t, inputs, ways, wide);
        self.function(&mut t, inputs);
        let _ = writeln!(
            t,
            "@compute @workgroup_size({WIDTH})\nfn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) wn: vec3<u32>, @builtin(local_invocation_index) lid: u32) {{\n    let g = workgroup_index(wid, wn) * {WIDTH}u + lid;\n    if (g >= m.n) {{ return; }}\n    let i = g{};",
            if wide { " * 4u" } else { "" }
        );
        load(&mut t, ways, rank);
        let call = |part: usize| {
            let component = |way: &Way| if way.load == Load::One { "" } else { [".x", ".y", ".z", ".w"][part] };
            let values = ways.iter().enumerate().map(|(n, way)| format!(", v{n}{}", component(way)));
            format!("value(i + {part}u{})", values.collect::<String>())
        };
        let parts = if wide { 4 } else { 1 };
        for part in 0..parts {
            let _ = writeln!(t, "    let p{part} = {};", call(part));
        }
        let types = self.dtypes(inputs);
        for (o, node) in self.results.iter().enumerate() {
            let _ = match wide {
                true => {
                    let ty = wgsl_type(types[*node]);
                    writeln!(t, "    o{o}[g] = vec4<{ty}>(p0.o{o}, p1.o{o}, p2.o{o}, p3.o{o});")
                }
                false => writeln!(t, "    o{o}[g] = p0.o{o};"),
            };
        }
        t.push_str("}\n");
        t
    }

    /// Bindings.
    fn declare(&self, t: &mut String, inputs: &[DType], ways: &[Way], wide: bool) {
        let types = self.dtypes(inputs);
        t.push_str("struct Meta { n: u32, dims: array<vec4<u32>, 2>, offsets: array<vec4<u32>, 2>, strides: array<vec4<u32>, 16> }\n");
        let mut binding = 0;
        let mut bind = |text: String| {
            let _ = writeln!(t, "@group(0) @binding({binding}) {text}");
            binding += 1;
        };
        let array = |dtype: DType, four: bool| match four {
            true => format!("array<vec4<{}>>", wgsl_type(dtype)),
            false => format!("array<{}>", wgsl_type(dtype)),
        };
        for (i, d) in inputs.iter().enumerate() {
            bind(format!("var<storage, read> a{i}: {};", array(*d, ways[i].load == Load::Four)));
        }
        for (o, node) in self.results.iter().enumerate() {
            bind(format!("var<storage, read_write> o{o}: {};", array(types[*node], wide)));
        }
        bind("var<uniform> m: Meta;".into());
    }

    /// What is computed of the inputs' elements at linear index i.
    fn function(&self, t: &mut String, inputs: &[DType]) {
        let types = self.dtypes(inputs);
        let fields = self.results.iter().enumerate().map(|(o, node)| format!("o{o}: {}", wgsl_type(types[*node])));
        let _ = writeln!(t, "struct Results {{ {} }}", fields.collect::<Vec<_>>().join(", "));
        let values = inputs.iter().enumerate().map(|(n, d)| format!(", v{n}: {}", wgsl_type(*d)));
        let _ = writeln!(t, "fn value(i: u32{}) -> Results {{", values.collect::<String>());
        for (n, (scalar, args)) in self.nodes.iter().enumerate() {
            let name = |a: &Argument| match a {
                Argument::Input(i) => format!("v{i}"),
                Argument::Node(i) => format!("r{i}"),
            };
            let names: Vec<String> = args.iter().map(name).collect();
            let _ = writeln!(t, "    let r{n} = {};", scalar.wgsl(&names));
        }
        let results: Vec<String> = self.results.iter().map(|node| format!("r{node}")).collect();
        let _ = writeln!(t, "    return Results({});\n}}", results.join(", "));
    }
}

/// Loads the inputs' elements at the linear index i, or from there on.
fn load(t: &mut String, ways: &[Way], rank: usize) {
    if ways.iter().any(|way| way.place == Place::Strided) {
        t.push_str("    var rest = i;\n");
        for d in (0..rank).rev() {
            let dim = format!("m.dims[{}][{}]", d / 4, d % 4);
            let _ = writeln!(t, "    let x{d} = rest % {dim}; rest = rest / {dim};");
        }
    }
    for (n, way) in ways.iter().enumerate() {
        let offset = format!("m.offsets[{}][{}]", n / 4, n % 4);
        let stride = |d: usize| format!("m.strides[{}][{}]", 2 * n + d / 4, d % 4);
        let index = match way.place {
            Place::Dense => format!("{offset} + i"),
            Place::Single => offset,
            Place::Strided => (0..rank).fold(offset, |text, d| format!("{text} + x{d} * {}", stride(d))),
        };
        let _ = match way.load {
            Load::One => writeln!(t, "    let v{n} = a{n}[{index}];"),
            Load::Four => writeln!(t, "    let v{n} = a{n}[({index}) / 4u];"),
            Load::Apart => {
                let s = stride(rank - 1);
                let at = |k: usize| format!("a{n}[j{n} + {k}u * {s}]");
                let all = [0, 1, 2, 3].map(at).join(", ");
                writeln!(t, "    let j{n} = {index};\n    let v{n} = vec4({all});")
            }
        };
    }
}
