//! A vision transformer of CoLT5's attention and feed-forward, after Simple ViT (Beyer et al. 2022, arXiv 2205.01580).

use super::attention::AttentionConfig;
use super::descent_router::CoordinateDescentRouterConfig;
use super::feed_forward::{ConditionalRoutedFeedForward, FeedForwardConfig};
use super::image::{ConditionalRoutedImageAttention, ImageAttentionConfig};
use super::rows::{below, expect, within};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::ops::route::soft_top_k::SoftTopK;
use crate::types::{Tensor, TensorType};

/// Options of a [`ConditionalRoutedViT`].
#[derive(Clone, Debug)]
pub struct ViTConfig {
    /// Height and width of an image, in pixels.
    pub image_size: usize,
    /// Side of a patch that becomes a token, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Number of classes.
    pub num_classes: usize,
    /// Number of layers.
    pub depth: usize,
    /// Channels of an image.
    pub channels: usize,
    /// The attention; its `light_window_size` is the side, in tokens, of the squares that attend to each other, and divides
    /// the tokens along a side of the image.
    pub attention: AttentionConfig,
    /// The feed-forward, of the same width.
    pub feed_forward: FeedForwardConfig,
}

impl ViTConfig {
    /// Images of three channels, attention and feed-forward as by their own constructors.
    pub fn new(
        image_size: usize,
        patch_size: usize,
        num_classes: usize,
        depth: usize,
        attention: AttentionConfig,
        feed_forward: FeedForwardConfig,
    ) -> Self {
        ViTConfig { image_size, patch_size, num_classes, depth, channels: 3, attention, feed_forward }
    }

    /// The router of version 0.11.2 of the package: an epsilon of 1 at the end.
    pub fn reference_router() -> CoordinateDescentRouterConfig {
        let how = SoftTopK::iterations(20, 1.0).scaled(4.0, 0.7);
        CoordinateDescentRouterConfig { how, ..CoordinateDescentRouterConfig::reference() }
    }

    /// Refuses values no model can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, message: String| Err(Error::argument(format!("ViTConfig::{what}"), message));
        for (what, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("num_classes", self.num_classes),
            ("channels", self.channels),
        ] {
            if value == 0 {
                return refuse(what, "is 0; expected at least 1".into());
            }
        }
        let dim = self.attention.dim;
        if !dim.is_multiple_of(4) || dim < 8 {
            return refuse("attention.dim", format!("is {dim}; the positions need a multiple of 4 and at least 8"));
        }
        if self.feed_forward.dim != dim {
            let message = format!("is {}, that of attention {dim}; they must be equal", self.feed_forward.dim);
            return refuse("feed_forward.dim", message);
        }
        within("ViTConfig: a patch", &[self.channels, self.patch_size, self.patch_size, dim])?;
        within("ViTConfig: an image", &[self.channels, self.image_size, self.image_size])?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            return refuse("patch_size", format!("{} does not divide {}", self.patch_size, self.image_size));
        }
        ImageAttentionConfig { attention: self.attention.clone(), channel_first: false }.check()?;
        let (side, window) = (self.image_size / self.patch_size, self.attention.light_window_size);
        within("ViTConfig: the tokens of an image", &[side, side, dim])?;
        if !side.is_multiple_of(window) {
            return refuse("attention.light_window_size", format!("{window} does not divide {side} tokens a side"));
        }
        self.feed_forward.check()
    }
}

/// An image classifier. Parameters: `to_patch_embedding.{1,2,3}.*` (LayerNorm, linear, LayerNorm),
/// `transformer.layers.{i}.0.*` (attention), `transformer.layers.{i}.1.*` (feed-forward), `linear_head.{1,2}.*`
/// (LayerNorm, linear).
#[derive(Clone, Debug)]
pub struct ConditionalRoutedViT {
    config: ViTConfig,
    prefix: String,
    embed: Linear,
    layers: Vec<(ConditionalRoutedImageAttention, ConditionalRoutedFeedForward)>,
    head: Linear,
}

/// Adds the parameters of a LayerNorm.
fn declare_norm(params: &mut Params, name: &str, width: usize) {
    params.add(below(name, "weight"), [width], Init::Ones);
    params.add(below(name, "bias"), [width], Init::Zeros);
}

fn norm<'g>(p: &ParamVars<'g>, name: &str, x: Var<'g>) -> Var<'g> {
    x.layer_norm(p.get(&below(name, "weight")), p.get(&below(name, "bias")), 1e-5)
}

impl ConditionalRoutedViT {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`ViTConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: ViTConfig) -> Result<Self> {
        config.check()?;
        let dim = config.attention.dim;
        let patch = config.channels * config.patch_size * config.patch_size;
        declare_norm(params, &below(name, "to_patch_embedding.1"), patch);
        let embed = Linear::new(params, &below(name, "to_patch_embedding.2"), patch, dim, true);
        declare_norm(params, &below(name, "to_patch_embedding.3"), dim);
        let mut layers = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            let layer = |part: usize| below(name, &format!("transformer.layers.{i}.{part}"));
            let image = ImageAttentionConfig { attention: config.attention.clone(), channel_first: false };
            let attention = ConditionalRoutedImageAttention::new(params, &layer(0), image)?;
            let feed_forward = ConditionalRoutedFeedForward::new(params, &layer(1), config.feed_forward.clone())?;
            layers.push((attention, feed_forward));
        }
        declare_norm(params, &below(name, "linear_head.1"), dim);
        let head = Linear::new(params, &below(name, "linear_head.2"), dim, config.num_classes, true);
        Ok(ConditionalRoutedViT { config, prefix: name.to_owned(), embed, layers, head })
    }

    /// Logits `[b, classes]` of images `[b, channels, H, W]`. `site` is the first of three sites of random numbers a layer.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, images: Var<'g>, site: u32) -> Var<'g> {
        let ViTConfig { image_size: size, patch_size: s, channels: c, .. } = self.config;
        let (b, side, dim) = (images.dim(0), size / s, self.config.attention.dim);
        expect(images.graph(), "ConditionalRoutedViT: images", images, &TensorType::f32([b, c, size, size]));
        let name = |part: &str| below(&self.prefix, part);
        let x = images.reshape([b, c, side, s, side, s]).permute(&[0, 2, 4, 3, 5, 1]);
        let x = norm(p, &name("to_patch_embedding.1"), x.reshape([b, side, side, s * s * c]));
        let x = norm(p, &name("to_patch_embedding.3"), self.embed.forward(p, x));
        let mut x = x + positions(images.graph(), side, dim);
        for ((attention, feed_forward), site) in self.layers.iter().zip((site..).step_by(3)) {
            let mut route = attention.route();
            route.site = site;
            x = attention.forward(p, x, &route) + x;
            let flat = x.reshape([b, side * side, dim]);
            let mut route = feed_forward.route();
            route.site = site.wrapping_add(2);
            x = (feed_forward.forward(p, flat, &route) + flat).reshape([b, side, side, dim]);
        }
        let pooled = x.reshape([b, side * side, dim]).mean(1).reshape([b, dim]);
        self.head.forward(p, norm(p, &name("linear_head.1"), pooled))
    }
}

/// Fixed positions `[side, side, dim]`: sine and cosine of the column, then of the row, at `dim / 4` frequencies from 1 to
/// 1/10000.
fn positions(graph: &Graph, side: usize, dim: usize) -> Var<'_> {
    let quarter = dim / 4;
    let mut table = Vec::with_capacity(side * side * dim);
    for at in 0..side * side {
        let (row, column) = (at / side, at % side);
        for (place, part) in [(column, 0), (column, 1), (row, 0), (row, 1)] {
            for j in 0..quarter {
                let angle = place as f64 * 10_000f64.powf(-(j as f64) / (quarter as f64 - 1.0));
                table.push(if part == 0 { angle.sin() } else { angle.cos() } as f32);
            }
        }
    }
    match Tensor::f32([side, side, dim], table) {
        Ok(tensor) => graph.constant(tensor),
        Err(error) => {
            graph.fail(error);
            graph.full([], 0.0)
        }
    }
}
