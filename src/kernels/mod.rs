//! WGSL kernels, how an operation dispatches them, and the interface of their CPU twins.
//!
//! ```
//! use wgrad::kernels::{Kernel, expand};
//!
//! let wgsl = expand("mine", "// #include \"shared/grid.wgsl\"\nfn f() {}")?;
//! assert!(wgsl.contains("fn workgroup_index") && wgsl.contains("fn f()"));
//! let softmax: &Kernel = wgrad::ops::KERNELS.iter().find(|k| k.name.contains("softmax")).unwrap();
//! assert!(softmax.text()?.contains("@compute"));
//! # Ok::<(), wgrad::Error>(())
//! ```

mod cpu;
pub(crate) mod gemm;
pub(crate) mod lower;
#[cfg(any(test, target_arch = "wasm32"))]
mod panel;
pub(crate) mod par;
pub mod scalar;
pub(crate) mod scratch;
pub(crate) mod vector;
pub(crate) mod walk;

pub use cpu::{CpuCall, CpuInput, CpuOutput, Ints, Slice, SliceMut};
pub use lower::{Access, Binding, Buffer, Capabilities, Dispatch, DispatchBuilder, Lower, Place, Source};

use crate::error::{Error, Result};

/// A kernel written in WGSL: one entry point `main`, storage buffers bound from 0 on, then the uniforms.
#[derive(Debug)]
pub struct Kernel {
    /// Path below `shaders/` without the extension.
    pub name: &'static str,
    /// The text, with `// #include "shared/x.wgsl"` lines not yet resolved.
    pub source: &'static str,
}

/// Declares a kernel from its path below `shaders/`.
#[macro_export]
#[doc(hidden)]
macro_rules! kernel {
    ($name:literal) => {
        $crate::kernels::Kernel {
            name: $name,
            source: include_str!(concat!(env!("OUT_DIR"), "/shaders/", $name, ".wgsl")),
        }
    };
}

macro_rules! shared {
    ($($name:literal,)*) => {
        &[$((concat!("shared/", $name, ".wgsl"), include_str!(concat!(env!("OUT_DIR"), "/shaders/shared/", $name, ".wgsl"))),)*]
    };
}

/// Files that kernels may include.
const SHARED: &[(&str, &str)] = shared![
    "attention",
    "blocks",
    "descent",
    "digits",
    "grid",
    "half",
    "keys",
    "matmul",
    "numerics",
    "optim",
    "order",
    "pairs",
    "radix",
    "radix_select",
    "row",
    "row_products",
    "row_update",
    "rows",
    "run_sum",
    "run_sums",
    "runs",
    "scores",
    "sinkhorn",
    "sinkhorn_weight",
    "table",
    "threefry",
    "top_k",
    "top_k_mask",
    "value",
    "value_wide",
    "weighted_sums",
    "weights",
    "words",
    "words_wide",
];

impl Kernel {
    /// The text with its includes in place.
    ///
    /// # Errors
    /// [`Error::ShaderCompile`] for an include that is not there.
    pub fn text(&self) -> Result<String> {
        expand(self.name, self.source)
    }
}

/// Resolves the include lines of a kernel's text.
///
/// # Errors
/// [`Error::ShaderCompile`] for an include that is not there, with its line.
pub fn expand(name: &str, source: &str) -> Result<String> {
    let mut out = String::with_capacity(source.len() + 2048);
    for (line, number) in source.lines().zip(1..) {
        match line.trim().strip_prefix("// #include ") {
            Some(file) => {
                let file = file.trim().trim_matches('"');
                let Some((_, text)) = SHARED.iter().find(|(n, _)| *n == file) else {
                    return Err(Error::ShaderCompile {
                        kernel: name.to_owned(),
                        line: Some(number),
                        log: format!("unknown include {file}"),
                    });
                };
                out.push_str(text);
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    Ok(out)
}
