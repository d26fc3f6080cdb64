//! CoLT5's attention on images: patches take the place of windows.

use super::attention::{AttentionConfig, AttentionRoute};
use super::branch::HeavyBranch;
use super::rows::{below, expect, refuse, within};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::ops::attention::Attention;
use crate::types::TensorType;

/// Options of a [`ConditionalRoutedImageAttention`].
#[derive(Clone, Debug)]
pub struct ImageAttentionConfig {
    /// As for sequences, but `light_window_size` is the side of a patch, and there is always a light branch, without tail
    /// and without rotary embedding.
    pub attention: AttentionConfig,
    /// Images are `[b, D, H, W]` instead of `[b, H, W, D]`.
    pub channel_first: bool,
}

impl ImageAttentionConfig {
    /// The package's defaults with routers that learn.
    pub fn new(dim: usize, num_heavy_tokens_q: usize, num_heavy_tokens_kv: usize) -> Self {
        let attention = AttentionConfig::new(dim, num_heavy_tokens_q, num_heavy_tokens_kv);
        ImageAttentionConfig { attention, channel_first: false }
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::argument("ImageAttentionConfig", message));
        if !self.attention.has_light_attn {
            return refuse("images need the light attention; set has_light_attn");
        }
        if self.attention.rotary_emb {
            return refuse("patches have no rotary embedding; unset rotary_emb");
        }
        if self.attention.light_window_size == 0 {
            return refuse("light_window_size is 0; expected the side of a patch");
        }
        let side = self.attention.light_window_size;
        within("ImageAttentionConfig: the tokens of a patch", &[side, side, self.attention.dim])?;
        // The side of a patch may be 1, a window of one token may not.
        AttentionConfig { light_window_size: 2, ..self.attention.clone() }.check()
    }
}

/// Full attention with RMS norm. Parameters `norm.gamma`, `to_qkv.weight` (rows q, k, v), `to_out.weight` below its name.
#[derive(Clone, Debug)]
struct LightAttention {
    heads: usize,
    dim_head: usize,
    gamma: String,
    to_qkv: Linear,
    to_out: Linear,
}

impl LightAttention {
    fn new(params: &mut Params, name: &str, config: &AttentionConfig) -> Self {
        let AttentionConfig { dim, light_heads: heads, light_dim_head: dim_head, .. } = *config;
        let gamma = below(name, "norm.gamma");
        params.add(&gamma, [dim], Init::Ones);
        let to_qkv = Linear::new(params, &below(name, "to_qkv"), dim, 3 * heads * dim_head, false);
        let to_out = Linear::new(params, &below(name, "to_out"), heads * dim_head, dim, false);
        LightAttention { heads, dim_head, gamma, to_qkv, to_out }
    }

    #[track_caller]
    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, mask: Option<Var<'g>>) -> Var<'g> {
        let (b, n, h, d) = (x.dim(0), x.dim(1), self.heads, self.dim_head);
        let qkv = self.to_qkv.forward(p, x.rms_norm(p.get(&self.gamma))).reshape([b, n, 3, h, d]);
        let part = |i| qkv.select_index(2, i).permute(&[0, 2, 1, 3]);
        let options = Attention { mask, ..Attention::default() };
        let out = part(0).attention(part(1), part(2), &options).out;
        self.to_out.forward(p, out.permute(&[0, 2, 1, 3]).reshape([b, n, h * d]))
    }
}

/// CoLT5's attention on images: full attention within each patch, plus heavy attention of routed tokens, which are routed
/// within each patch as well. Parameters as of [`ConditionalRoutedAttention`](super::ConditionalRoutedAttention), but
/// `light_attn.norm.gamma`.
#[derive(Clone, Debug)]
pub struct ConditionalRoutedImageAttention {
    config: ImageAttentionConfig,
    light: LightAttention,
    heavy: HeavyBranch,
}

impl ConditionalRoutedImageAttention {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`ImageAttentionConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: ImageAttentionConfig) -> Result<Self> {
        config.check()?;
        let light = LightAttention::new(params, &below(name, "light_attn"), &config.attention);
        let heavy = HeavyBranch::new(params, name, config.attention.branch())?;
        Ok(ConditionalRoutedImageAttention { config, light, heavy })
    }

    /// Options of one call with the module's numbers of heavy tokens. Masks and counts are those of patches, which are the
    /// batch: `[b patches, side side]`, `[b patches]`.
    pub fn route<'g>(&self) -> AttentionRoute<'g> {
        AttentionRoute::new(self.config.attention.num_heavy_tokens_q, self.config.attention.num_heavy_tokens_kv)
    }

    /// `x` `[b, H, W, D]` to the same, or `[b, D, H, W]`; height and width are multiples of the side of a patch.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &AttentionRoute<'g>) -> Var<'g> {
        let first = self.config.channel_first;
        let image = if first { x.permute(&[0, 2, 3, 1]) } else { x };
        let (side, dim) = (self.config.attention.light_window_size, self.config.attention.dim);
        let (b, h, w) = (image.dim(0), image.dim(1), image.dim(2));
        let what = "ConditionalRoutedImageAttention";
        expect(x.graph(), what, image, &TensorType::f32([b, h, w, dim]));
        if !h.is_multiple_of(side) || !w.is_multiple_of(side) {
            let message = format!("an image of {h} x {w} cannot be cut into patches of {side} x {side}; pad it");
            refuse(x.graph(), what, message);
            return x;
        }
        let (rows, columns) = (h / side, w / side);
        let patches = image.reshape([b, rows, side, columns, side, dim]).permute(&[0, 1, 3, 2, 4, 5]);
        let patches = patches.reshape([b * rows * columns, side * side, dim]);
        let [q, kv] = route.routes();
        // First the heavy branch, which says what is wrong with a mask.
        let heavy = self.heavy.forward(p, patches, patches, &q, &kv);
        let out = self.light.forward(p, patches, route.mask) + heavy;
        let out = out.reshape([b, rows, columns, side, side, dim]).permute(&[0, 1, 3, 2, 4, 5]);
        let out = out.reshape([b, h, w, dim]);
        if first { out.permute(&[0, 3, 1, 2]) } else { out }
    }
}
