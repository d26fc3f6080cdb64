//! Every shader of the library without a GPU: baseline WGSL, bindings that agree with what dispatches bind, portable
//! limits, and translations for Vulkan, Metal and DX12.
//!
//! With `WGRAD_DUMP_SHADERS=dir` the test `dump` writes them for a browser's stricter compiler: one `.wgsl` file a text
//! and `manifest.json` with one line a pipeline: `{"name", "file", "constants"}`.

use std::collections::{BTreeMap, BTreeSet};
use wgrad::check::sample as check;
use wgrad::kernels::{Access, Capabilities, Dispatch};
use wgrad::ops::KERNELS;
use wgrad::ops::samples;
use wgrad::plan::Program;
use wgrad::{Graph, Options, TensorType};

/// One pipeline: a text with its constants, and what is bound to it (unknown for kernels that no sample uses).
struct Shader {
    name: String,
    text: String,
    constants: Vec<(&'static str, f64)>,
    bound: Option<Bound>,
}

#[derive(Debug)]
struct Bound {
    access: Vec<Access>,
    /// Bytes of the static uniform, then of the globals.
    uniforms: Vec<u32>,
}

/// States, a gate and integers: what samples do not reach.
fn state_program() -> Program {
    let graph = Graph::new();
    let (a, b) = (graph.state("a", TensorType::f32([7, 3])), graph.state("b", TensorType::u32([5])));
    graph.assign(a, a.exp());
    graph.assign(b, b + 1u32);
    graph.gate(a.sum_all().is_finite());
    Program::build(&graph, &[], Options::default()).expect("a program with states")
}

/// All distinct pipelines of all samples, with and without fusion, for hardware and for software drivers.
fn shaders() -> Vec<Shader> {
    let mut programs = vec![state_program()];
    for sample in samples::all() {
        for fuse in [true, false] {
            let options = Options { fuse, ..Options::default() };
            programs.push(check::program(&sample, options).unwrap_or_else(|e| panic!("{}: {e}", sample.name)));
        }
    }
    let mut seen = BTreeSet::new();
    let mut used = BTreeSet::new();
    let mut all = Vec::new();
    let shared = Capabilities { subgroup: 8, ..Capabilities::portable(true) };
    for capabilities in [Capabilities::portable(false), Capabilities::portable(true), shared] {
        for program in &programs {
            for d in check::dispatches(program, &capabilities).expect("portable limits suffice") {
                used.insert(d.source.name().to_owned());
                let shader = shader(&d);
                let Shader { text, constants, bound, .. } = &shader;
                if seen.insert(format!("{constants:?}{bound:?}{text}")) {
                    all.push(shader);
                }
            }
        }
    }
    for kernel in KERNELS.iter().filter(|k| !used.contains(k.name)) {
        println!("no sample dispatches {}: add one", kernel.name);
        all.push(Shader {
            name: kernel.name.to_owned(),
            text: kernel.text().expect("includes exist"),
            constants: Vec::new(),
            bound: None,
        });
    }
    let known: BTreeSet<&str> = KERNELS.iter().map(|k| k.name).chain(["elementwise"]).collect();
    for name in &used {
        assert!(known.contains(name.as_str()), "{name} is not in KERNELS");
    }
    all
}

fn shader(d: &Dispatch) -> Shader {
    let uniforms = d.uniform.iter().map(|u| u.len() as u32);
    Shader {
        name: d.source.name().to_owned(),
        text: d.source.text().expect("includes exist").into_owned(),
        constants: d.constants.clone(),
        bound: Some(Bound {
            access: d.bindings.iter().map(|b| b.access).collect(),
            uniforms: uniforms.chain(d.globals.then_some(16)).collect(),
        }),
    }
}

/// Parses, validates and reflects; the error says what is wrong.
fn examine(shader: &Shader) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(&shader.text)
        .map_err(|e| e.emit_to_string_with_path(&shader.text, &shader.name))?;
    // Packed halves are part of WGSL, though naga counts them as a capability.
    let capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32 | naga::valid::Capabilities::SUBGROUP;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(&shader.text))?;
    let constants = shader.constants.iter().map(|(n, v)| ((*n).to_owned(), *v));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, None, &constants.collect())
        .map_err(|e| format!("constants {:?}: {e}", shader.constants))?;
    geometry(&module)?;
    bindings(&module, shader.bound.as_ref())?;
    translate(&module, &info)
}

/// Entry point, workgroup size and workgroup memory.
fn geometry(module: &naga::Module) -> Result<(), String> {
    let [entry] = &module.entry_points[..] else {
        return Err(format!("{} entry points", module.entry_points.len()));
    };
    if entry.name != "main" || entry.stage != naga::ShaderStage::Compute {
        return Err(format!("entry point {} ({:?})", entry.name, entry.stage));
    }
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations > 256 {
        return Err(format!("{invocations} invocations, at most 256"));
    }
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
        .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
        .sum();
    if bytes > 16 << 10 {
        return Err(format!("{bytes} bytes of workgroup memory, at most 16384"));
    }
    Ok(())
}

/// Declared bindings against what the dispatch binds: storage buffers from 0 on, then the uniforms.
fn bindings(module: &naga::Module, bound: Option<&Bound>) -> Result<(), String> {
    let mut declared = BTreeMap::new();
    for (_, v) in module.global_variables.iter() {
        let Some(at) = &v.binding else { continue };
        let name = v.name.clone().unwrap_or_default();
        if at.group != 0 || declared.insert(at.binding, (name, v)).is_some() {
            return Err(format!("group {} binding {} is not its own", at.group, at.binding));
        }
    }
    let storage = |v: &naga::GlobalVariable| matches!(v.space, naga::AddressSpace::Storage { .. });
    let buffers = declared.values().filter(|(_, v)| storage(v)).count();
    if buffers > 8 {
        return Err(format!("{buffers} storage buffers, at most 8"));
    }
    for (i, (binding, (name, v))) in declared.iter().enumerate() {
        if *binding as usize != i || storage(v) != (i < buffers) {
            return Err(format!("{name}: storage buffers come first, without gaps"));
        }
    }
    let Some(bound) = bound else { return Ok(()) };
    let want = bound.access.len() + bound.uniforms.len();
    if bound.access.len() != buffers || declared.len() != want {
        return Err(format!(
            "declares {buffers} buffers of {} bindings, dispatched with {} of {want}",
            declared.len(),
            bound.access.len()
        ));
    }
    for (i, (name, v)) in declared.values().enumerate() {
        match v.space {
            naga::AddressSpace::Storage { access } => {
                let writes = access.contains(naga::StorageAccess::STORE);
                if writes != (bound.access[i] == Access::Write) {
                    return Err(format!("{name}: declared {access:?}, bound {:?}", bound.access[i]));
                }
            }
            naga::AddressSpace::Uniform => {
                let size = module.types[v.ty].inner.size(module.to_ctx());
                let written = bound.uniforms[i - buffers];
                if size > written {
                    return Err(format!("{name}: {size} bytes declared, {written} written"));
                }
            }
            other => return Err(format!("{name}: {other:?}")),
        }
    }
    Ok(())
}

fn translate(module: &naga::Module, info: &naga::valid::ModuleInfo) -> Result<(), String> {
    use naga::back::{hlsl, msl, spv};
    spv::write_vec(module, info, &spv::Options::default(), None).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 0), ..Default::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default()).map_err(|e| format!("MSL: {e}"))?;
    let (options, pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
    hlsl::Writer::new(&mut String::new(), &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

#[test]
fn every_shader_is_sound() {
    let all = shaders();
    let failures: Vec<String> =
        all.iter().filter_map(|s| Some(format!("{} {:?}: {}", s.name, s.constants, examine(s).err()?))).collect();
    println!("{} pipelines", all.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn defects_are_seen() {
    let shader = |text: &str, access: Vec<Access>, uniforms: Vec<u32>| Shader {
        name: "test".into(),
        text: text.into(),
        constants: vec![],
        bound: Some(Bound { access, uniforms }),
    };
    let text = "struct M { a: u32, b: vec4<u32> }
        @group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @group(0) @binding(2) var<uniform> m: M;
        @compute @workgroup_size(64) fn main() { y[0] = x[m.a + m.b.x]; }";
    use Access::{Read, Write};
    let good = shader(text, vec![Read, Write], vec![32]);
    assert_eq!(examine(&good), Ok(()));
    let bad = [
        shader(text, vec![Read, Write], vec![16]),
        shader(text, vec![Write, Write], vec![32]),
        shader(text, vec![Read, Write, Read], vec![32]),
        shader(text, vec![Read, Write], vec![32, 16]),
        shader(&text.replace("(64)", "(512)"), vec![Read, Write], vec![32]),
        shader(&text.replace("binding(2)", "binding(3)"), vec![Read, Write], vec![32]),
        shader(&text.replace("main()", "start()"), vec![Read, Write], vec![32]),
    ];
    for shader in bad {
        assert!(examine(&shader).is_err(), "{}", shader.text);
    }
}

#[test]
fn dump() {
    let Ok(dir) = std::env::var("WGRAD_DUMP_SHADERS") else {
        return;
    };
    std::fs::create_dir_all(&dir).expect("the folder for shaders");
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut manifest = BTreeSet::new();
    // Browsers ask for a directive before subgroups that naga does not know: those kernels are for native devices.
    for shader in shaders().into_iter().filter(|shader| !shader.text.contains("subgroup")) {
        let number = files.len();
        let file = files
            .entry(shader.text.clone())
            .or_insert_with(|| format!("{:04}-{}.wgsl", number, shader.name.replace('/', "-")));
        std::fs::write(format!("{dir}/{file}"), &shader.text).expect("a shader is written");
        let constants: BTreeMap<&str, f64> = shader.constants.iter().copied().collect();
        let line = serde_json::json!({ "name": shader.name, "file": file, "constants": constants });
        manifest.insert(format!("{line}\n"));
    }
    std::fs::write(format!("{dir}/manifest.json"), manifest.into_iter().collect::<String>())
        .expect("the manifest is written");
    println!("{} shaders in {dir}", files.len());
}
