//! Options of the modules of conditional routing, from a fixture's `config`. One that this test does not know is an error.

use super::build::unsupported;
use super::fixture::Case;
use serde_json::{Map, Value};
use wgrad::Result;
use wgrad::models::conditional::{
    AttentionConfig, AutoregressiveConfig, BlockConfig, CoordinateDescentRouterConfig, CrossAttentionConfig,
    CumulativeSoftmaxRouterConfig, FeedForwardConfig, HeavyAttentionConfig, ImageAttentionConfig, RouterConfig,
    Similarity, SinkhornRouterConfig, ViTConfig,
};
use wgrad::ops::route::soft_top_k::SoftTopK;

/// Versions 0.2.x and 0.3.x: no null tokens, other routers.
fn old(case: &Case) -> bool {
    case.version.starts_with("0.2.") || case.version.starts_with("0.3.")
}

fn init(case: &Case) -> Result<Map<String, Value>> {
    match case.option("init") {
        Some(Value::Object(options)) => Ok(options.clone()),
        _ => Err(unsupported(case, "a case without options")),
    }
}

/// Sets a coordinate-descent router's option. False: it has no such option.
fn descent_option(c: &mut CoordinateDescentRouterConfig, key: &str, value: &Value) -> bool {
    let number = value.as_f64();
    let size = value.as_u64().map(|v| v as usize);
    let flag = value.as_bool();
    if let SoftTopK::Iterations { n, eps, eps_init, eps_decay, .. } = &mut c.how {
        match (key, number) {
            ("n_iters", Some(v)) => *n = v as usize,
            ("eps", Some(v)) => *eps = v,
            ("eps_init", v) => *eps_init = v,
            ("eps_decay", Some(v)) => *eps_decay = v,
            _ => {}
        }
    }
    match (key, number, size, flag) {
        ("n_iters" | "eps" | "eps_init" | "eps_decay" | "cosine_sim_scale", ..) => {}
        ("use_triton" | "triton_checkpoint_segments", ..) => {}
        ("straight_through", .., Some(v)) => c.straight_through = v,
        ("fetch_k_ratio", Some(v), ..) => c.fetch_k_ratio = v,
        ("num_routing_tokens", _, Some(v), _) => c.num_routing_tokens = v,
        ("learned_routing_tokens", .., Some(v)) => c.learned_routing_tokens = v,
        ("cosine_sim_routing", .., Some(true)) => c.similarity = Similarity::Cosine { scale: 8.0 },
        ("cosine_sim_routing", .., Some(false)) => {}
        ("route_block_size", _, v, _) => c.route_block_size = v,
        _ => return false,
    }
    true
}

/// A router of a kind of the package with options.
pub fn descent_config(case: &Case, kind: &str, options: &Value) -> Result<RouterConfig> {
    let options = options.as_object().cloned().unwrap_or_default();
    let mut through = true;
    let mut rest = Vec::new();
    for (key, value) in &options {
        match (key.as_str(), value.as_bool()) {
            ("straight_through", Some(v)) => through = v,
            _ => rest.push((key.as_str(), value)),
        }
    }
    match kind {
        "cum_softmax" => {
            let mut c = CumulativeSoftmaxRouterConfig { straight_through: through, ..Default::default() };
            for (key, value) in rest {
                match (key, value.as_f64()) {
                    ("temperature", Some(v)) => c.temperature = v,
                    ("num_routing_tokens", Some(v)) => c.num_routing_tokens = v as usize,
                    _ => return Err(unsupported(case, key)),
                }
            }
            Ok(RouterConfig::CumulativeSoftmax(c))
        }
        "sinkhorn" => {
            let mut c = SinkhornRouterConfig { straight_through: through, ..Default::default() };
            for (key, value) in rest {
                match (key, value.as_f64()) {
                    ("temperature", Some(v)) => c.temperature = v,
                    ("num_routing_tokens", Some(v)) => c.num_routing_tokens = v as usize,
                    ("n_iters", Some(v)) => c.n_iters = v as usize,
                    _ => return Err(unsupported(case, key)),
                }
            }
            Ok(RouterConfig::Sinkhorn(c))
        }
        "coor_descent" => {
            let base = match old(case) {
                true => CoordinateDescentRouterConfig::version_0_2(),
                false => CoordinateDescentRouterConfig::reference(),
            };
            let mut c = CoordinateDescentRouterConfig { straight_through: through, ..base };
            for (key, value) in rest {
                if !descent_option(&mut c, key, value) {
                    return Err(unsupported(case, key));
                }
            }
            let scale = options.get("cosine_sim_scale").and_then(Value::as_f64);
            if let (Similarity::Cosine { .. }, Some(scale)) = (c.similarity, scale) {
                c.similarity = Similarity::Cosine { scale };
            }
            c.gather_across_samples = !old(case) && case.semantics == "reference";
            Ok(c.into())
        }
        other => Err(unsupported(case, other)),
    }
}

/// The routers of a module.
fn router(case: &Case, options: &Map<String, Value>) -> Result<RouterConfig> {
    let kind = options.get("router_type").and_then(Value::as_str).unwrap_or("coor_descent");
    let mut kwargs = options.get("router_kwargs").cloned().unwrap_or(Value::Null);
    if kwargs.is_null() {
        kwargs = Value::Object(Map::new());
    }
    if let (Value::Object(kwargs), Some(through)) = (&mut kwargs, options.get("router_straight_through")) {
        kwargs.insert("straight_through".into(), through.clone());
    }
    descent_config(case, kind, &kwargs)
}

/// Options that say how, not what; the router's are read by [`router`].
fn elsewhere(key: &str) -> bool {
    ["router_type", "router_kwargs", "router_straight_through", "use_triton", "use_flash_attn"].contains(&key)
}

/// Overrides of sizes in a call.
pub fn forward_sizes(case: &Case, sizes: &mut [(&str, &mut usize)]) -> Result<()> {
    for (key, value) in case.option("forward").and_then(Value::as_object).into_iter().flatten() {
        match (sizes.iter_mut().find(|(name, _)| name == key), value.as_u64()) {
            (Some((_, size)), Some(v)) => **size = v as usize,
            (Some(_), None) if value.is_null() => {}
            (None, _) if key == "random_route" && value.as_bool() == Some(false) => {}
            _ => return Err(unsupported(case, key)),
        }
    }
    Ok(())
}

pub fn heavy_config(case: &Case) -> Result<HeavyAttentionConfig> {
    let mut c = HeavyAttentionConfig { null_kv: !old(case), ..HeavyAttentionConfig::new(0) };
    for (key, value) in &init(case)? {
        let (size, flag) = (value.as_u64().unwrap_or_default() as usize, value.as_bool().unwrap_or_default());
        match key.as_str() {
            "dim" => c.dim = size,
            "heads" => c.heads = size,
            "dim_head" => c.dim_head = size,
            "multiply_keys_by_score" => c.multiply_keys_by_score = flag,
            "use_flash" | "use_flash_attn" => {}
            other => return Err(unsupported(case, other)),
        }
    }
    Ok(c)
}

fn feed_forward_option(c: &mut FeedForwardConfig, key: &str, value: &Value) -> bool {
    match (key, value.as_f64()) {
        ("dim", Some(v)) => c.dim = v as usize,
        ("num_heavy_tokens" | "num_heavy_ff_tokens", Some(v)) => c.num_heavy_tokens = v as usize,
        ("light_ff_mult", Some(v)) => c.light_ff_mult = v,
        ("heavy_ff_mult", Some(v)) => c.heavy_ff_mult = v,
        _ => return false,
    }
    true
}

pub fn feed_forward_config(case: &Case) -> Result<FeedForwardConfig> {
    let options = init(case)?;
    let mut c = FeedForwardConfig { router: router(case, &options)?, ..FeedForwardConfig::new(0, 0) };
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        if !feed_forward_option(&mut c, key, value) {
            return Err(unsupported(case, key));
        }
    }
    Ok(c)
}

fn attention_option(c: &mut AttentionConfig, key: &str, value: &Value) -> bool {
    let (size, flag) = (value.as_u64().unwrap_or_default() as usize, value.as_bool().unwrap_or_default());
    match key {
        "dim" => c.dim = size,
        "num_heavy_tokens_q" | "num_heavy_attn_tokens_q" => c.num_heavy_tokens_q = size,
        "num_heavy_tokens_kv" | "num_heavy_attn_tokens_kv" => c.num_heavy_tokens_kv = size,
        "num_routed_kv" => c.num_routed_kv = size,
        "has_light_attn" => c.has_light_attn = flag,
        "light_dim_head" => c.light_dim_head = size,
        "light_heads" => c.light_heads = size,
        "light_window_size" => c.light_window_size = size,
        "heavy_dim_head" => c.heavy_dim_head = size,
        "heavy_heads" => c.heavy_heads = size,
        "multiply_keys_by_score" => c.multiply_keys_by_score = flag,
        "multiply_queries_by_score" => c.multiply_queries_by_score = flag,
        "use_null_q_tokens" => c.use_null_q_tokens = flag,
        "rotary_emb" => c.rotary_emb = flag,
        _ => return false,
    }
    true
}

fn attention_base(case: &Case, options: &Map<String, Value>) -> Result<AttentionConfig> {
    let mut c = AttentionConfig { router: router(case, options)?, ..AttentionConfig::new(0, 0, 0) };
    if old(case) {
        c.use_null_kv = false;
        c.use_null_q_tokens = false;
    }
    Ok(c)
}

pub fn attention_config(case: &Case) -> Result<AttentionConfig> {
    let options = init(case)?;
    let mut c = attention_base(case, &options)?;
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        if !attention_option(&mut c, key, value) {
            return Err(unsupported(case, key));
        }
    }
    Ok(c)
}

pub fn autoregressive_config(case: &Case) -> Result<AutoregressiveConfig> {
    let options = init(case)?;
    let mut c = AutoregressiveConfig { attention: attention_base(case, &options)?, heavy_window_size: None };
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        if key == "heavy_window_size" {
            c.heavy_window_size = value.as_u64().map(|v| v as usize);
        } else if !attention_option(&mut c.attention, key, value) {
            return Err(unsupported(case, key));
        }
    }
    Ok(c)
}

pub fn image_config(case: &Case) -> Result<ImageAttentionConfig> {
    let options = init(case)?;
    let mut c = ImageAttentionConfig { attention: attention_base(case, &options)?, channel_first: false };
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        if key == "channel_first" {
            c.channel_first = value.as_bool().unwrap_or_default();
        } else if !attention_option(&mut c.attention, key, value) {
            return Err(unsupported(case, key));
        }
    }
    Ok(c)
}

pub fn cross_config(case: &Case) -> Result<CrossAttentionConfig> {
    let options = init(case)?;
    let null = !old(case);
    let mut c = CrossAttentionConfig {
        router: router(case, &options)?,
        use_null_kv: null,
        use_null_q_tokens: null,
        ..CrossAttentionConfig::new(0, 0, 0)
    };
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        let (size, flag) = (value.as_u64().unwrap_or_default() as usize, value.as_bool().unwrap_or_default());
        match key.as_str() {
            "dim" => c.dim = size,
            "num_tokens_q" => c.num_tokens_q = size,
            "num_tokens_kv" => c.num_tokens_kv = size,
            // The package takes it and never looks at it.
            "num_sets_kv" => {}
            "dim_head" => c.dim_head = size,
            "heads" => c.heads = size,
            "kv_routing_tokens" => c.kv_routing_tokens = size,
            "multiply_keys_by_score" => c.multiply_keys_by_score = flag,
            "use_null_q_tokens" => c.use_null_q_tokens = flag,
            "route_block_size" => c.route_block_size = value.as_u64().map(|v| v as usize),
            other => return Err(unsupported(case, other)),
        }
    }
    Ok(c)
}

pub fn block_config(case: &Case) -> Result<BlockConfig> {
    let options = init(case)?;
    let router = router(case, &options)?;
    let mut c = BlockConfig::new(0, 0, 0, 0);
    c.attention = attention_base(case, &options)?;
    c.feed_forward.router = router;
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        let ff = feed_forward_option(&mut c.feed_forward, key, value);
        let attention = attention_option(&mut c.attention, key, value);
        if !ff && !attention {
            return Err(unsupported(case, key));
        }
    }
    Ok(c)
}

pub fn vit_config(case: &Case) -> Result<ViTConfig> {
    let mut options = init(case)?;
    // The package's own epsilon for images, unless the router's options say otherwise.
    let eps = options.remove("default_coor_descent_eps").unwrap_or(Value::from(1.0));
    let kwargs = options.entry("router_kwargs").or_insert(Value::Object(Map::new()));
    if kwargs.is_null() {
        *kwargs = Value::Object(Map::new());
    }
    if let Value::Object(kwargs) = kwargs {
        kwargs.entry("eps").or_insert(eps);
    }
    let router = router(case, &options)?;
    let attention = AttentionConfig { router: router.clone(), ..AttentionConfig::new(0, 0, 0) };
    let feed_forward = FeedForwardConfig { router, ..FeedForwardConfig::new(0, 0) };
    let mut c = ViTConfig::new(0, 0, 0, 0, attention, feed_forward);
    for (key, value) in options.iter().filter(|(key, _)| !elsewhere(key)) {
        let size = value.as_u64().unwrap_or_default() as usize;
        let ok = match key.as_str() {
            "image_size" => set(&mut c.image_size, size),
            "patch_size" => set(&mut c.patch_size, size),
            "num_classes" => set(&mut c.num_classes, size),
            "depth" => set(&mut c.depth, size),
            "channels" => set(&mut c.channels, size),
            "flash_attn" | "router_use_triton" => true,
            "dim" => set(&mut c.attention.dim, size) && set(&mut c.feed_forward.dim, size),
            other => match (other.strip_prefix("attn_"), other.strip_prefix("ff_")) {
                (Some("num_heavy_tokens_q"), _) => attention_option(&mut c.attention, "num_heavy_tokens_q", value),
                (Some(name), _) => attention_option(&mut c.attention, name, value),
                (_, Some(name)) if name.ends_with("_mult") => {
                    let name = name.replace("_mult", "_ff_mult");
                    feed_forward_option(&mut c.feed_forward, &name, value)
                }
                (_, Some(name)) => feed_forward_option(&mut c.feed_forward, name, value),
                _ => false,
            },
        };
        if !ok {
            return Err(unsupported(case, key));
        }
    }
    Ok(c)
}

fn set(size: &mut usize, value: usize) -> bool {
    *size = value;
    true
}
