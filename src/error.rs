//! The one error type of the library.
//!
//! ```
//! use wgrad::{Device, Error, Graph, TensorType};
//!
//! let graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([2, 3]));
//! let y = x.matmul(x); // no `?`: the graph keeps its first error, and compiling returns it
//! match Device::cpu().compile_blocking(&graph, &[("y", y)]) {
//!     Err(Error::Shape { op, shapes, location, .. }) => {
//!         assert_eq!((op.as_str(), shapes[0].len()), ("matmul", 2));
//!         assert!(location.file().ends_with(".rs"), "the line that called matmul");
//!     }
//!     _ => unreachable!("[2, 3] times [2, 3] is no product"),
//! }
//! ```
//!
//! # What a device reports
//!
//! Whatever hands work to a GPU, or reads from it, may also return [`Error::DeviceLost`], and every later call then does;
//! [`Error::OutOfMemory`], where the driver has no room; and [`Error::Device`] with the words of a driver that refused a
//! command. On the CPU executor there is only [`Error::OutOfMemory`], where something is made.

use crate::types::{DType, Shape};
use std::panic::Location;

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Each message says what was expected, what came, where, and what to do.
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Shapes do not fit an operation.
    #[error("{op}: {message} (inputs: {}) at {location}", list(.shapes))]
    Shape {
        /// Operation that refused its inputs.
        op: String,
        /// What was expected and what to do.
        message: String,
        /// Shapes of all inputs.
        shapes: Vec<Shape>,
        /// Caller's file and line.
        location: Where,
    },
    /// A tensor has another element type than the operation needs.
    #[error("{op}: expected {expected}, got {got}: {message} at {location}")]
    Dtype {
        /// Operation that refused its inputs.
        op: String,
        /// Needed element type.
        expected: DType,
        /// Element type that came.
        got: DType,
        /// What to do.
        message: String,
        /// Caller's file and line.
        location: Where,
    },
    /// An argument has a value outside its range.
    #[error("{what}: {message}")]
    Argument {
        /// The argument or function.
        what: String,
        /// What was expected, what came, what to do.
        message: String,
    },
    /// A limit of the device is too small for what was asked.
    #[error("over the limit {limit}: {needed} needed, {available} allowed; {hint}")]
    Limit {
        /// Name of the limit, as WebGPU names it.
        limit: String,
        /// What the work needs.
        needed: u64,
        /// What the device has.
        available: u64,
        /// What to do about it.
        hint: String,
    },
    /// No usable GPU adapter.
    #[error("no GPU adapter fits the request ({request}); found: {}; {hint}", if .found.is_empty() { "none".into() } else { .found.join(", ") })]
    NoAdapter {
        /// What was asked for.
        request: String,
        /// Adapters that were found.
        found: Vec<String>,
        /// What to install or change.
        hint: String,
    },
    /// The device could not be made, or refused a command.
    #[error("device: {message}")]
    Device {
        /// The driver's words.
        message: String,
    },
    /// A shader did not compile on this device.
    #[error("shader {kernel} does not compile{}: {log}", .line.map(|l| format!(", line {l}")).unwrap_or_default())]
    ShaderCompile {
        /// Kernel name.
        kernel: String,
        /// Line of the WGSL text, from 1 on, where it is known: for a [`CustomOp`](crate::ops::custom::CustomOp).
        line: Option<u32>,
        /// Compiler output.
        log: String,
    },
    /// Device memory ran out.
    #[error(
        "out of device memory: {requested} bytes requested while the plan's peak is {peak} bytes; use a smaller batch, recomputation, or a larger device"
    )]
    OutOfMemory {
        /// Bytes of the allocation that failed.
        requested: u64,
        /// Peak bytes of the plan.
        peak: u64,
    },
    /// The device is gone; all later calls on it fail the same way.
    #[error("device lost: {reason}; make a new device and restore the last snapshot or checkpoint")]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },
    /// A loss or gradient was infinite or NaN; the step changed nothing.
    #[error(
        "not finite: {node} at step {step}; the step was skipped, parameters are as before; lower the learning rate or clip gradients"
    )]
    NotFinite {
        /// Which value.
        node: String,
        /// The step that was skipped.
        step: u64,
    },
    /// A checkpoint cannot be read or does not fit.
    #[error("checkpoint{}: {message}", .tensor.as_ref().map(|t| format!(", tensor {t}")).unwrap_or_default())]
    Checkpoint {
        /// Name of the tensor, when one is to blame.
        tensor: Option<String>,
        /// What was expected, what was found, what to do.
        message: String,
    },
    /// A named input, state or output is missing or unknown.
    #[error("{kind} \"{name}\": {message}")]
    Name {
        /// "input", "state", "output" or "parameter".
        kind: &'static str,
        /// The name.
        name: String,
        /// What to do.
        message: String,
    },
    /// Ranks that train together do not agree, or one of them is gone.
    #[error("rank {rank}: {message}")]
    Rank {
        /// The rank to blame.
        rank: usize,
        /// What happened, and what to do.
        message: String,
    },
    /// Reading or writing a file failed.
    #[error("{path}: {message}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        message: String,
    },
}

/// The first few of the names there are, in order of the alphabet, for messages about one that is not among them.
pub(crate) fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.len() {
        0 => "none".to_owned(),
        n if n > SHOWN => format!("{}, and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

impl Error {
    /// The kind in one word, for callers in other languages.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Shape { .. } => "shape",
            Error::Dtype { .. } => "dtype",
            Error::Argument { .. } => "argument",
            Error::Limit { .. } => "limit",
            Error::NoAdapter { .. } => "no-adapter",
            Error::Device { .. } => "device",
            Error::ShaderCompile { .. } => "shader-compile",
            Error::OutOfMemory { .. } => "out-of-memory",
            Error::DeviceLost { .. } => "device-lost",
            Error::NotFinite { .. } => "not-finite",
            Error::Checkpoint { .. } => "checkpoint",
            Error::Name { .. } => "name",
            Error::Rank { .. } => "rank",
            Error::Io { .. } => "io",
        }
    }

    /// An argument out of range.
    pub fn argument(what: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Argument { what: what.into(), message: message.into() }
    }

    /// Says where, unless it is said already: for the kinds of error that have no field for it.
    pub(crate) fn located(mut self, location: Where) -> Self {
        let (Error::Argument { what: text, .. } | Error::Name { message: text, .. }) = &mut self else { return self };
        if !text.contains(".rs:") {
            *text = format!("{text} at {location}");
        }
        self
    }

    /// A checkpoint that does not fit.
    pub fn checkpoint(tensor: Option<&str>, message: impl Into<String>) -> Self {
        Error::Checkpoint { tensor: tensor.map(str::to_owned), message: message.into() }
    }
}

/// A place in the caller's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where(pub(crate) &'static Location<'static>);

impl Where {
    /// The place that called the current function.
    #[track_caller]
    pub fn caller() -> Self {
        Where(Location::caller())
    }

    /// The source file, as the compiler was given it.
    pub fn file(&self) -> &'static str {
        self.0.file()
    }

    /// The line, from 1 on.
    pub fn line(&self) -> u32 {
        self.0.line()
    }
}

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0.file(), self.0.line())
    }
}

/// Why an operation refuses its inputs; the graph adds shapes and place.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// Shapes do not fit.
    Shape(String),
    /// Wrong element type: expected, got, advice.
    Dtype(DType, DType, String),
}

impl Refusal {
    /// Shapes do not fit, with the reason.
    ///
    /// # Errors
    /// Always: [`Refusal::Shape`].
    pub fn shape<T>(message: impl Into<String>) -> std::result::Result<T, Refusal> {
        Err(Refusal::Shape(message.into()))
    }

    pub(crate) fn at(self, op: &str, shapes: Vec<Shape>, location: Where) -> Error {
        let op = op.to_owned();
        match self {
            Refusal::Shape(message) => Error::Shape { op, message, shapes, location },
            Refusal::Dtype(expected, got, message) => Error::Dtype { op, expected, got, message, location },
        }
    }
}

fn list(shapes: &[Shape]) -> String {
    shapes.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", ")
}
