//! One named parameter.

use super::{Init, Quantization};
use crate::types::Shape;
use std::sync::Arc;

/// One parameter.
#[derive(Clone, Debug)]
pub struct Param {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Shared by clones: tables are large.
    pub(super) init: Arc<Init>,
    pub(super) group: String,
    pub(super) trainable: bool,
    pub(super) sharded: bool,
    pub(super) quantized: Option<Quantization>,
}

impl Param {
    pub(super) fn new(name: String, shape: Shape, init: Init) -> Self {
        Param {
            name,
            shape,
            init: Arc::new(init),
            group: "default".into(),
            trainable: true,
            sharded: false,
            quantized: None,
        }
    }

    /// Puts it into an optimizer group of its own learning rate and weight decay; the default is `"default"`.
    pub fn group(&mut self, group: impl Into<String>) -> &mut Self {
        self.group = group.into();
        self
    }

    /// Makes it a buffer: stored and loaded with the parameters, but not trained. Graphs can write it with
    /// [`ParamVars::assign`](super::ParamVars::assign).
    pub fn buffer(&mut self) -> &mut Self {
        self.trainable = false;
        self
    }

    /// Makes it a table `[rows, width]` that models read with [`ParamVars::sharded`](super::ParamVars::sharded) whatever
    /// its size; it may then exceed one binding, see [`Params::limit`](super::Params::limit).
    pub fn sharded(&mut self) -> &mut Self {
        self.sharded = true;
        self
    }

    /// Rounds a table `[rows, width]` on devices and in files, for inference: it is not trained, and models read its rows
    /// with [`ParamVars::table`](super::ParamVars::table). On the host its values stay as they were given. In a safetensors
    /// file it is a tensor F16, or I8 `[rows, width]` of which 127 stands for the row's scale, F32 `[rows]`
    /// `<name>.scales`; such a file also loads into a parameter of floats.
    pub fn quantized(&mut self, how: Quantization) -> &mut Self {
        self.trainable = false;
        self.quantized = Some(how);
        self
    }

    /// Name, as in a PyTorch `state_dict`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Optimizer group.
    pub fn group_name(&self) -> &str {
        &self.group
    }

    /// Whether it is trained.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Whether it was marked with [`sharded`](Self::sharded).
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// How it is rounded, if it is.
    pub fn quantization(&self) -> Option<Quantization> {
        self.quantized
    }
}
