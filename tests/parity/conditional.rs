//! Conditional routing: routers, attention, feed-forward, blocks, images.

use super::build::{Build, run, unsupported};
use super::compare::Outcome;
use super::conditional_options::{
    attention_config, autoregressive_config, block_config, cross_config, descent_config, feed_forward_config,
    forward_sizes, heavy_config, image_config, vit_config,
};
use super::fixture::Case;
use crate::Module;
use std::collections::BTreeMap;
use wgrad::models::conditional::{
    AttentionRoute, ConditionalRoutedAttention, ConditionalRoutedAutoregressiveAttention,
    ConditionalRoutedCrossAttention, ConditionalRoutedFeedForward, ConditionalRoutedImageAttention,
    ConditionalRoutedTransformerBlock, ConditionalRoutedViT, Context, HeavyAttention, Route, Router, RouterConfig,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Error, Result, Shape};

const SYSTEM: &str = "CoLT5-attention";

pub static MODULES: &[(&str, &str, Module)] = &[
    (SYSTEM, "CoordinateDescentRouter", router),
    (SYSTEM, "DifferentiableTopKRouter", router),
    (SYSTEM, "SinkhornRouter", router),
    (SYSTEM, "Attention (heavy)", heavy),
    (SYSTEM, "ConditionalRoutedFeedForward", feed_forward),
    (SYSTEM, "ConditionalRoutedAttention", attention),
    (SYSTEM, "ConditionalRoutedCrossAttention", cross_attention),
    (SYSTEM, "ConditionalRoutedAutoregressiveAttention", autoregressive),
    (SYSTEM, "ConditionalRoutedImageAttention", image),
    (SYSTEM, "ConditionalRoutedTransformerBlock", block),
    (SYSTEM, "ConditionalRoutedViT", vit),
];

/// The parameters of a case. A module must declare just these.
fn params<'g>(b: &Build<'g>, declared: &Params) -> Result<ParamVars<'g>> {
    let names: Vec<&str> = b.case.names("param.").collect();
    let mut theirs = BTreeMap::new();
    let mut vars = Vec::new();
    for name in &names {
        let var = b.param(name)?;
        theirs.insert(*name, var.shape());
        vars.push(((*name).to_owned(), var));
    }
    let ours: BTreeMap<&str, Shape> = declared.iter().map(|p| (p.name(), p.shape().clone())).collect();
    if ours != theirs {
        return Err(Error::argument("parameters", format!("declared {ours:?}, the checkpoint has {theirs:?}")));
    }
    b.buffers(&declared.iter().filter(|p| !p.is_trainable()).map(|p| p.name()).collect::<Vec<_>>());
    Ok(ParamVars::from_vars(b.graph, vars))
}

fn router(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let dim = case.size("dim", 0);
        let init = case.option("init").cloned().unwrap_or_default();
        let kind = match case.module.as_str() {
            "DifferentiableTopKRouter" => "cum_softmax",
            "SinkhornRouter" => "sinkhorn",
            _ => "coor_descent",
        };
        let config = descent_config(case, kind, &init)?;
        let routes = match &config {
            RouterConfig::CoordinateDescent(c) => c.num_routing_tokens,
            RouterConfig::CumulativeSoftmax(c) => c.num_routing_tokens,
            RouterConfig::Sinkhorn(c) => c.num_routing_tokens,
        };
        let mut declared = Params::new(0);
        let router = Router::new(&mut declared, "", dim, &config, routes)?;
        let p = params(b, &declared)?;
        let mut route = Route::new(0);
        for (key, value) in case.option("forward").and_then(|v| v.as_object()).into_iter().flatten() {
            match (key.as_str(), value.as_u64(), value.as_bool()) {
                ("num_tokens", Some(k), _) => route.num_tokens = k as usize,
                ("keep_one_route_dim", _, Some(keep)) => route.keep_one_route_dim = keep,
                ("random_route", _, Some(false)) => {}
                _ => return Err(unsupported(case, key)),
            }
        }
        route.mask = b.maybe_input("mask");
        route.routing_tokens = b.maybe_input("routing_tokens");
        route.gumbel = b.maybe_input("gumbel");
        let routed = router.forward(&p, b.input("x")?, &route);
        let named = [
            ("indices", routed.indices),
            ("scores", Some(routed.scores)),
            ("routed_tokens", Some(routed.tokens)),
            ("routed_mask", routed.mask),
        ];
        let mut given = Vec::new();
        for (name, var) in named {
            if let (Some(var), true) = (var, case.has(&format!("output.{name}"))) {
                b.output(name, var);
                given.push(name);
            }
        }
        // Slots of the Sinkhorn router have an order, and may take a token twice.
        if given.contains(&"indices") && kind != "sinkhorn" {
            b.set("indices", &given[1..]);
        }
        Ok(())
    })
}

fn heavy(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let layer = HeavyAttention::new(&mut declared, "", heavy_config(case)?)?;
        let p = params(b, &declared)?;
        let context = Context {
            tokens: b.maybe_input("context"),
            mask: b.maybe_input("mask"),
            scores: b.maybe_input("scores_kv"),
            positions: None,
        };
        b.output("out", layer.forward(&p, b.input("x")?, b.maybe_input("scores_q"), None, &context));
        Ok(())
    })
}

fn feed_forward(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let layer = ConditionalRoutedFeedForward::new(&mut declared, "", feed_forward_config(case)?)?;
        let p = params(b, &declared)?;
        let mut route = layer.route();
        forward_sizes(case, &mut [("num_heavy_tokens", &mut route.num_tokens)])?;
        route.mask = b.maybe_input("mask");
        route.gumbel = b.maybe_input("gumbel0");
        b.output("out", layer.forward(&p, b.input("x")?, &route));
        Ok(())
    })
}

/// Fills in what a case says about a call of attention.
fn attention_route<'g>(b: &Build<'g>, route: &mut AttentionRoute<'g>, names: [&str; 2]) -> Result<()> {
    let mut sizes = [(names[0], &mut route.num_heavy_tokens_q), (names[1], &mut route.num_heavy_tokens_kv)];
    forward_sizes(b.case, &mut sizes)?;
    route.mask = b.maybe_input("mask");
    route.gumbel_q = b.maybe_input("gumbel0");
    route.gumbel_kv = b.maybe_input("gumbel1");
    Ok(())
}

const HEAVY: [&str; 2] = ["num_heavy_tokens_q", "num_heavy_tokens_kv"];

fn attention(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let layer = ConditionalRoutedAttention::new(&mut declared, "", attention_config(case)?)?;
        let p = params(b, &declared)?;
        let mut route = layer.route();
        attention_route(b, &mut route, HEAVY)?;
        b.output("out", layer.forward(&p, b.input("x")?, &route));
        Ok(())
    })
}

fn cross_attention(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let layer = ConditionalRoutedCrossAttention::new(&mut declared, "", cross_config(case)?)?;
        let p = params(b, &declared)?;
        let mut route = layer.route();
        let (q, kv) = (&mut route.queries, &mut route.context);
        forward_sizes(case, &mut [("num_tokens_q", &mut q.num_tokens), ("num_tokens_kv", &mut kv.num_tokens)])?;
        route.queries.mask = b.maybe_input("mask");
        route.context.mask = b.maybe_input("context_mask");
        route.queries.gumbel = b.maybe_input("gumbel0");
        route.context.gumbel = b.maybe_input("gumbel1");
        b.output("out", layer.forward(&p, b.input("x")?, b.input("context")?, &route));
        Ok(())
    })
}

fn autoregressive(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let config = autoregressive_config(case)?;
        let layer = ConditionalRoutedAutoregressiveAttention::new(&mut declared, "", config)?;
        let p = params(b, &declared)?;
        let mut route = layer.route();
        let mut sizes = [(HEAVY[0], &mut route.num_heavy_tokens_q), (HEAVY[1], &mut route.num_heavy_tokens_kv)];
        forward_sizes(case, &mut sizes)?;
        b.output("out", layer.forward(&p, b.input("x")?, &route));
        Ok(())
    })
}

fn image(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let layer = ConditionalRoutedImageAttention::new(&mut declared, "", image_config(case)?)?;
        let p = params(b, &declared)?;
        let mut route = layer.route();
        attention_route(b, &mut route, HEAVY)?;
        b.output("out", layer.forward(&p, b.input("x")?, &route));
        Ok(())
    })
}

fn block(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let layer = ConditionalRoutedTransformerBlock::new(&mut declared, "", block_config(case)?)?;
        let p = params(b, &declared)?;
        let mut route = layer.route();
        let (attention, ff) = (&mut route.attention, &mut route.feed_forward);
        let mut sizes = [
            ("num_heavy_attn_tokens_q", &mut attention.num_heavy_tokens_q),
            ("num_heavy_attn_tokens_kv", &mut attention.num_heavy_tokens_kv),
            ("num_heavy_ff_tokens", &mut ff.num_tokens),
        ];
        forward_sizes(case, &mut sizes)?;
        let mut route = route.mask(b.maybe_input("mask"));
        route.attention.gumbel_q = b.maybe_input("gumbel0");
        route.attention.gumbel_kv = b.maybe_input("gumbel1");
        route.feed_forward.gumbel = b.maybe_input("gumbel2");
        b.output("out", layer.forward(&p, b.input("x")?, &route));
        Ok(())
    })
}

fn vit(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let model = ConditionalRoutedViT::new(&mut declared, "", vit_config(case)?)?;
        let p = params(b, &declared)?;
        b.output("out", model.forward(&p, b.input("x")?, 0));
        Ok(())
    })
}
