//! The layer.

use super::address::{gates, select};
use super::config::ProductKeyConfig;
use super::groups::VALUES;
use super::lookup::{Lookup, NoiseScale, Recall};
use super::norm::{batch_norm, declare_batch_norm, declare_norm, layer_norm};
use crate::error::Result;
use crate::graph::Var;
use crate::models::parts::{below, expect, refuse};
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::types::{Shape, TensorType};

/// Product-key memory. Parameters below its name: `to_queries.weight` `[2 H d, D]`, `norm.weight`, `norm.bias` `[d]`, `keys`
/// `[H, N, 2, d]`, `values.weight` `[N², D]`, or `[N², d]` with `maybe_concat_combine.2.weight` `[D, H d]`, and if asked for
/// `pre_layernorm.*`, `output_norm.*` `[D]`. Batch norm instead of LayerNorm: `norm.fn.weight`, `.bias`, and the buffers
/// `.running_mean`, `.running_var`, `.num_batches_tracked`. The values are in the optimizer group [`VALUES`].
#[derive(Clone, Debug)]
pub struct ProductKeyMemory {
    config: ProductKeyConfig,
    name: String,
    to_queries: Linear,
    combine: Option<Linear>,
}

/// Sites of random numbers, counted from that of the call.
const INPUT: u32 = 0;
const QUERY: u32 = 1;
const NOISE: u32 = 2;
const GATES: u32 = 3;
const OUTPUT: u32 = 4;

impl ProductKeyMemory {
    /// Adds the parameters below `name` (none: at the top): linear maps uniform within 1/√inputs, keys and values normal
    /// with variance 1/width.
    ///
    /// # Errors
    /// As [`ProductKeyConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: ProductKeyConfig) -> Result<Self> {
        config.check()?;
        let ProductKeyConfig { dim, heads, num_keys, dim_head, .. } = config;
        let part = |what: &str| below(name, what);
        let normal = |width: usize| Init::Normal { std: 1.0 / (width as f32).sqrt() };
        if config.pre_layernorm {
            declare_norm(params, &part("pre_layernorm"), dim);
        }
        let to_queries = Linear::new(params, &part("to_queries"), dim, 2 * heads * dim_head, false);
        if config.use_layernorm {
            declare_norm(params, &part("norm"), dim_head);
        } else {
            declare_batch_norm(params, &part("norm.fn"), dim_head);
        }
        params.add(part("keys"), [heads, num_keys, 2, dim_head], normal(dim_head));
        let width = config.width();
        params.add(part("values.weight"), [config.slots(), width], normal(width)).group(VALUES);
        let combine = config
            .concat_values_and_combine
            .then(|| Linear::new(params, &part("maybe_concat_combine.2"), heads * dim_head, dim, false));
        if config.norm_output {
            declare_norm(params, &part("output_norm"), dim);
        }
        Ok(ProductKeyMemory { config, name: name.to_owned(), to_queries, combine })
    }

    /// The options.
    pub fn config(&self) -> &ProductKeyConfig {
        &self.config
    }

    /// Name of the table of values among the parameters.
    pub fn values(&self) -> String {
        self.part("values.weight")
    }

    fn part(&self, what: &str) -> String {
        below(&self.name, what)
    }

    /// `x` `[.., D]` to `[.., D]`.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, lookup: &Lookup<'g>) -> Var<'g> {
        self.recall(p, x, lookup).out
    }

    /// [`forward`](Self::forward), with the slots that were read and their gates.
    ///
    /// # Errors
    /// The graph keeps an `Argument` if `x` has another width than `D`, or a mask or the noise another shape than
    /// [`Lookup`] says.
    #[track_caller]
    pub fn recall<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, lookup: &Lookup<'g>) -> Recall<'g> {
        let c = &self.config;
        let mut outer = x.shape();
        if let Some(last) = outer.0.last_mut() {
            *last = c.dim;
        }
        expect(x.graph(), "ProductKeyMemory: x", x, &TensorType::f32(outer.clone()));
        outer.0.pop();
        let n = outer.numel();
        self.check(x, lookup, &outer);
        let mut rows = x.reshape([n, c.dim]);
        if c.pre_layernorm {
            rows = layer_norm(p, &self.part("pre_layernorm"), rows);
        }
        rows = rows.dropout(c.input_dropout, lookup.site + INPUT, lookup.mode);
        let dots = self.dots(p, rows, lookup);
        let selected = select(c, dots.select_index(0, 0), dots.select_index(0, 1));
        let by_token = |v: Var<'g>| v.permute(&[1, 0, 2]);
        let slots = by_token(selected.indices);
        let gates = by_token(gates(c, selected.values));
        let out = self.values_of(p, slots, gates, lookup);
        let out = out.dropout(c.value_dropout, lookup.site + OUTPUT, lookup.mode);
        let out = if c.norm_output { layer_norm(p, &self.part("output_norm"), out) } else { out };
        let shaped = |v: Var<'g>, inner: &[usize]| v.reshape(Shape([&outer[..], inner].concat()));
        let (read, all) = ([c.heads, c.topk], [c.dim]);
        Recall { out: shaped(out, &all), slots: shaped(slots, &read), gates: shaped(gates, &read) }
    }

    /// Refuses masks and noise of another type than [`Lookup`] says.
    #[track_caller]
    fn check(&self, x: Var<'_>, lookup: &Lookup<'_>, outer: &Shape) {
        let (g, c) = (x.graph(), &self.config);
        if let Some(mask) = lookup.input_mask {
            expect(g, "ProductKeyMemory: input_mask", mask, &TensorType::u32(outer.clone()));
        }
        if let Some(mask) = lookup.mem_trainable_mask {
            expect(g, "ProductKeyMemory: mem_trainable_mask", mask, &TensorType::u32([c.slots()]));
        }
        if let Some(noise) = lookup.gumbel_noise {
            let shape = Shape([&outer[..], &[c.heads, 2, c.num_keys]].concat());
            expect(g, "ProductKeyMemory: gumbel_noise", noise, &TensorType::f32(shape));
        }
        let what = "ProductKeyMemory: gumbel_noise_scale";
        match lookup.gumbel_noise_scale {
            NoiseScale::Fixed(scale) if scale.is_finite() && scale >= 0.0 => {}
            NoiseScale::Fixed(scale) => {
                refuse(g, what, format!("{scale} is no scale; expected a finite number from 0 on"));
            }
            NoiseScale::PerStep(scale) => expect(g, what, scale, &TensorType::f32([])),
        }
    }

    /// Products of half queries with sub-keys, `[2, H, n, N]`, of rows `[n, D]`.
    fn dots<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, lookup: &Lookup<'g>) -> Var<'g> {
        let ProductKeyConfig { heads: h, dim_head: d, num_keys, query_dropout, .. } = self.config;
        let n = x.dim(0);
        // Columns: half, head, feature.
        let q = self.to_queries.forward(p, x).reshape([n * 2 * h, d]);
        let q = if self.config.use_layernorm {
            layer_norm(p, &self.part("norm"), q)
        } else {
            let each = |m: Var<'g>| m.to_f32().reshape([n, 1]).expand([n, 2 * h]).reshape([n * 2 * h, 1]);
            batch_norm(p, &self.part("norm.fn"), q, lookup.input_mask.map(each), lookup.mode)
        };
        let q = q.dropout(query_dropout, lookup.site + QUERY, lookup.mode).reshape([n, 2, h, d]);
        let keys = p.get(&self.part("keys")).permute(&[2, 0, 3, 1]);
        let dots = q.permute(&[1, 2, 0, 3]).matmul(keys);
        let noise = || match lookup.gumbel_noise {
            Some(noise) => noise.reshape([n, h, 2, num_keys]).permute(&[2, 1, 0, 3]),
            // Rows first: the axis that ranks share.
            None => x.graph().gumbel([n, 2, h, num_keys], lookup.site + NOISE).permute(&[1, 2, 0, 3]),
        };
        match lookup.gumbel_noise_scale {
            NoiseScale::Fixed(0.0) => dots,
            NoiseScale::Fixed(scale) => dots + noise() * scale,
            NoiseScale::PerStep(scale) => dots + noise() * scale,
        }
    }

    /// What slots and gates `[n, H, K]` read: `[n, D]`.
    fn values_of<'g>(&self, p: &ParamVars<'g>, slots: Var<'g>, gates: Var<'g>, lookup: &Lookup<'g>) -> Var<'g> {
        let ProductKeyConfig { heads: h, topk: k, attn_dropout, .. } = self.config;
        let n = slots.dim(0);
        let table = p.table(&self.values());
        let gates = gates.dropout(attn_dropout, lookup.site + GATES, lookup.mode);
        let read = |slots, gates| table.weighted_gather(slots, gates, lookup.mem_trainable_mask);
        let Some(combine) = &self.combine else {
            return read(slots.reshape([n, h * k]), gates.reshape([n, h * k]));
        };
        let gates = if self.config.drop_gates { slots.graph().full([n, h, k], 1.0) } else { gates };
        combine.forward(p, read(slots, gates).reshape([n, h * self.config.dim_head]))
    }
}
