//! Checks of a kernel of the user's own, without a device.

use super::Spec;
use crate::error::{Error, Result};
use crate::kernels::expand;
use crate::types::DType;
use naga::front::wgsl;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ScalarKind, ShaderStage, StorageAccess, TypeInner};

/// Parses and validates; then entry point, geometry, bindings and constants against the description.
pub(super) fn kernel(spec: &Spec, source: &str) -> Result<()> {
    let text = &*spec.text;
    let fail = |line: Option<u32>, log: String| {
        let line = line.and_then(|l| own_line(source, l));
        Err(Error::ShaderCompile { kernel: spec.name.to_owned(), line, log })
    };
    let module = match wgsl::parse_str(text) {
        Ok(module) => module,
        Err(e) => {
            let at = e.location(text).map(|l| l.line_number);
            return fail(at, e.emit_to_string_with_path(text, spec.name));
        }
    };
    // Packed halves are part of WGSL, though naga counts them as a capability.
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32);
    if let Err(e) = validator.validate(&module) {
        let at = e.location(text).map(|l| l.line_number);
        return fail(at, e.emit_to_string_with_path(text, spec.name));
    }
    let checks = [geometry(&module), bindings(&module, spec, text), constants(&module, spec)];
    match checks.into_iter().find_map(Result::err) {
        Some((line, log)) => fail(line, log),
        None => Ok(()),
    }
}

/// What does not fit, and the line, if it is about one.
type Check = std::result::Result<(), (Option<u32>, String)>;

/// The line of the source that line `wanted` of the expanded text comes from; the last one for what is missing at the end.
fn own_line(source: &str, wanted: u32) -> Option<u32> {
    let mut after = 0;
    let mut own = None;
    for (line, number) in source.lines().zip(1..) {
        // A blank line has no lines by itself, but is one.
        after += expand("", line).map_or(1, |text| text.lines().count().max(1)) as u32;
        own = Some(number);
        if after >= wanted {
            break;
        }
    }
    own
}

fn geometry(module: &Module) -> Check {
    let [entry] = &module.entry_points[..] else {
        return Err((None, format!("expected one entry point, got {}", module.entry_points.len())));
    };
    if entry.name != "main" || entry.stage != ShaderStage::Compute {
        return Err((None, format!("expected a compute entry point main, got {} ({:?})", entry.name, entry.stage)));
    }
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations > 256 {
        return Err((None, format!("a workgroup has {invocations} invocations; every device offers 256")));
    }
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    let bytes: u32 = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
    if bytes > 16 << 10 {
        return Err((None, format!("{bytes} bytes of workgroup memory; every device offers 16384")));
    }
    Ok(())
}

/// Kind of the elements of an array, as far as they are scalars or vectors.
fn elements(module: &Module, ty: naga::Handle<naga::Type>) -> Option<ScalarKind> {
    match &module.types[ty].inner {
        TypeInner::Array { base, .. } => elements(module, *base),
        TypeInner::Scalar(Scalar { kind, .. })
        | TypeInner::Atomic(Scalar { kind, .. })
        | TypeInner::Vector { scalar: Scalar { kind, .. }, .. } => Some(*kind),
        _ => None,
    }
}

fn bindings(module: &Module, spec: &Spec, text: &str) -> Check {
    let (inputs, buffers) = (spec.inputs.len(), spec.inputs.len() + spec.outputs.len());
    let uniforms = usize::from(spec.uniform.is_some()) + usize::from(spec.globals);
    let mut seen = vec![false; buffers + uniforms];
    for (handle, v) in module.global_variables.iter() {
        let Some(at) = &v.binding else { continue };
        let name = v.name.clone().unwrap_or_default();
        let line = Some(module.global_variables.get_span(handle).location(text).line_number);
        let index = at.binding as usize;
        let known = at.group == 0 && seen.get(index) == Some(&false);
        if !known {
            let total = seen.len();
            let message = format!("{name}: group 0 has bindings 0 to {}, each once", total.saturating_sub(1));
            return Err((line, message));
        }
        seen[index] = true;
        let writes = matches!(v.space, AddressSpace::Storage { access } if access.contains(StorageAccess::STORE));
        let (role, fits) = match v.space {
            _ if index >= buffers => ("var<uniform>", v.space == AddressSpace::Uniform),
            AddressSpace::Storage { .. } if index < inputs => ("var<storage, read>, an input", !writes),
            _ if index < inputs => ("var<storage, read>, an input", false),
            _ => ("var<storage, read_write>, an output", writes),
        };
        if !fits {
            return Err((line, format!("{name}: binding {index} is a {role}")));
        }
        let declared = if index < buffers { elements(module, v.ty) } else { None };
        let dtype = spec.inputs.iter().chain(&spec.outputs).nth(index);
        if let (Some(kind), Some(dtype)) = (declared, dtype)
            && (kind == ScalarKind::Float) != (*dtype == DType::F32)
        {
            return Err((line, format!("{name}: binding {index} holds {dtype}, not {kind:?}")));
        }
    }
    match seen.iter().position(|s| !s) {
        Some(index) => Err((None, format!("binding {index} of {} is not declared", seen.len()))),
        None => Ok(()),
    }
}

fn constants(module: &Module, spec: &Spec) -> Check {
    let declared = |name: &str| module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
    match spec.constants.iter().find(|(name, _)| !declared(name)) {
        Some((name, _)) => Err((None, format!("there is no override constant {name}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{expand, own_line};

    #[test]
    fn lines_of_the_expanded_text_are_found_in_the_source() {
        let source = "\n// a\n\n  \n// #include \"shared/grid.wgsl\"\n\nfn f() {}\n\n// b\n";
        let text = expand("", source).expect("the file is there");
        for (line, wanted) in text.lines().zip(1..) {
            let own = own_line(source, wanted).and_then(|own| source.lines().nth(own as usize - 1)).expect("a line");
            assert!(own == line || own.contains("#include"), "{wanted}: {own}");
        }
        assert_eq!(
            ["// a", "fn f() {}", "// b"].map(|part| at(&text, part).and_then(|l| own_line(source, l))),
            [Some(2), Some(7), Some(9)]
        );
        // The end of the text, where a brace is missing.
        assert_eq!(own_line(source, text.lines().count() as u32 + 1), Some(9));
        assert_eq!(own_line("", 1), None);
    }

    fn at(text: &str, part: &str) -> Option<u32> {
        text.lines().zip(1..).find(|(line, _)| *line == part).map(|(_, number)| number)
    }
}
