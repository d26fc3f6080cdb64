//! The fast-weight memory: linear attention over everything written before.

use crate::graph::Var;
use crate::nn::ParamVars;

/// A memory of one layer.
#[derive(Clone, Copy)]
pub struct Memory<'g> {
    /// `[b, h, d, d]`: key features by value features.
    pub kv: Var<'g>,
    /// `[b, h, d]`: sum of key features.
    pub norm: Var<'g>,
}

impl<'g> Memory<'g> {
    /// The same values, cut from the graph.
    pub fn detach(self) -> Self {
        Memory { kv: self.kv.stop_gradient(), norm: self.norm.stop_gradient() }
    }

    /// What the memory returns for features `[b, h, n, d]` (equation 3): `(s M) / max(s z, 1e-10)`.
    #[track_caller]
    pub fn retrieve(self, features: Var<'g>) -> Var<'g> {
        let axis = self.norm.rank();
        features.matmul(self.kv) / features.matmul(self.norm.unsqueeze(axis)).maximum(1e-10)
    }

    /// The memory after writing features of keys and values, `[b, h, n, d]` each (equation 4).
    #[track_caller]
    pub fn write(past: Option<Self>, features: Var<'g>, values: Var<'g>) -> Self {
        let kv = features.transpose(-1, -2).matmul(values);
        let norm = features.sum(2).reshape([features.dim(0), features.dim(1), features.dim(3)]);
        match past {
            Some(past) => Memory { kv: past.kv + kv, norm: past.norm + norm },
            None => Memory { kv, norm },
        }
    }
}

/// Feature map of keys and queries: elu(x) + 1.
#[track_caller]
pub(super) fn features(x: Var<'_>) -> Var<'_> {
    x.elu_plus_one()
}

/// The memory of one attention layer: gates, retrieval, and what is written.
#[derive(Clone, Debug)]
pub struct FastweightMemory {
    /// Full name of the gate parameter `[h]`.
    pub gate_name: String,
    /// Write only what the memory does not already return.
    pub delta_rule: bool,
}

impl FastweightMemory {
    /// Shares of the local and of the remembered output, `[h, 1, 1]` each: sigmoid of the gate and its complement.
    #[track_caller]
    pub fn gates<'g>(&self, p: &ParamVars<'g>) -> (Var<'g>, Var<'g>) {
        let gate = p.get(&self.gate_name);
        let gate = gate.reshape([gate.dim(0), 1, 1]);
        (gate.sigmoid(), (-gate).sigmoid())
    }

    /// Mixes the local output with what the memory returns for `queries`, both `[b, h, n, d]` (equation 6).
    #[track_caller]
    pub fn retrieve_and_combine<'g>(
        &self,
        p: &ParamVars<'g>,
        local: Var<'g>,
        queries: Var<'g>,
        past: Memory<'g>,
    ) -> Var<'g> {
        let (near, far) = self.gates(p);
        local * near + past.retrieve(features(queries)) * far
    }

    /// The memory after a segment. `beta` `[b, h, n, 1]` is the learned update: a share 1 of it writes nothing. A memory
    /// that nothing was written to returns 0, which is what the delta rule subtracts without a past.
    #[track_caller]
    pub fn update<'g>(
        &self,
        keys: Var<'g>,
        values: Var<'g>,
        beta: Option<Var<'g>>,
        past: Option<Memory<'g>>,
    ) -> Memory<'g> {
        let written = features(keys);
        let values = match past {
            Some(past) if self.delta_rule => values - past.retrieve(written),
            _ => values,
        };
        let values = beta.map_or(values, |beta| values * (1.0 - beta));
        Memory::write(past, written, values)
    }
}
