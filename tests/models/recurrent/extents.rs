//! Extents at the edge: single tokens, vectors and heads, primes, compression to nothing; and how parameters start.

use super::gradients::{gradients, numbers, oracle};
use super::stream::{last_logits, logits, plans};
use super::{VOCABULARY, model, texts, tiny};
use crate::common;
use wgrad::models::recurrent::{BlockRecurrentConfig, Carried, RecurrentStream};
use wgrad::nn::Params;

fn awkward() -> Vec<(&'static str, BlockRecurrentConfig)> {
    let single = || BlockRecurrentConfig {
        dim: 1,
        dim_head: 2,
        heads: 1,
        block_width: 1,
        max_seq_len: 1,
        num_state_vectors: Some(1),
        ff_mult: 2.0,
        ..tiny()
    };
    let primes = || BlockRecurrentConfig {
        dim: 13,
        dim_head: 6,
        heads: 5,
        block_width: 7,
        max_seq_len: 21,
        num_state_vectors: Some(11),
        ..tiny()
    };
    vec![
        ("single", single()),
        ("single, compressed to nothing", BlockRecurrentConfig { compressed_mem_factor: Some(1), ..single() }),
        ("single in a longer call", BlockRecurrentConfig { max_seq_len: 5, ..single() }),
        ("one layer", BlockRecurrentConfig { depth: 1, recurrent_layers: None, ..primes() }),
        ("primes", primes()),
        ("a block into one", BlockRecurrentConfig { compressed_mem_factor: Some(7), ..primes() }),
        ("nothing smaller", BlockRecurrentConfig { compressed_mem_factor: Some(1), ..primes() }),
    ]
}

/// In single precision on every device as in double precision, whole and token by token.
#[test]
fn awkward_extents_compute_what_the_oracle_does() {
    let n = 23;
    for (name, config) in awkward() {
        let (model, params) = model(&config);
        let text = texts(1, n, 6);
        let want = oracle(&params, &numbers(&params), |g, p| {
            let (mut carried, ids) = (Carried::default(), g.constant(text.clone()));
            let step = config.max_seq_len;
            let call = |s: usize| {
                let (logits, next) = model.forward(p, ids.slice(1, s, step.min(n - s)), &carried);
                carried = next;
                (format!("{s:02}"), logits)
            };
            (0..n).step_by(step).map(call).collect()
        });
        let want: Vec<f32> = want.into_values().flatten().map(|x| x as f32).collect();
        for device in common::devices() {
            let got = logits(&device, &config, text.ints());
            common::modules::assert_close(&format!("{name} on {device}"), &got.concat(), &want);
            let (plans, store) = plans(&device, &config, 1);
            let mut stream = RecurrentStream::new(&plans).unwrap();
            for (i, want) in want.chunks(VOCABULARY).enumerate() {
                stream.feed(&store, &[&text.ints()[i..=i]]).unwrap();
                common::modules::assert_close(
                    &format!("{name}, token {i} on {device}"),
                    &last_logits(&stream)[0],
                    want,
                );
            }
            let mut stream = RecurrentStream::new(&plans).unwrap();
            stream.feed(&store, &[text.ints()]).unwrap();
            common::modules::assert_close(&format!("{name} fed, {device}"), &last_logits(&stream)[0], &want[22 * 11..]);
        }
    }
}

/// Gradients of each parameter against a difference of losses, where the extents are odd.
#[test]
fn awkward_extents_have_gradients() {
    for (name, config) in awkward() {
        let config = BlockRecurrentConfig { max_seq_len: 4 * config.block_width, ..config };
        let (model, params) = model(&config);
        let text = texts(2, config.max_seq_len, 3);
        let at = numbers(&params);
        let run = |given: &super::gradients::Numbers| {
            oracle(&params, given, |g, p| {
                let (loss, _) = model.loss(p, g.constant(text.clone()), &Carried::default());
                let mut all = gradients(&params, p, &[(loss, g.full([], 1.0))], &[]);
                all.push(("loss".into(), loss));
                all
            })
        };
        let found = run(&at);
        for (parameter, grad) in found.iter().filter(|(n, _)| *n != "loss") {
            let direction = |i: usize| ((i * 13 + parameter.len()) as f64 * 0.37).sin();
            let moved = |h: f64| {
                let mut given = at.clone();
                given.get_mut(parameter).unwrap().iter_mut().enumerate().for_each(|(i, x)| *x += h * direction(i));
                run(&given)["loss"][0]
            };
            let h = 1e-5;
            let want = (moved(h) - moved(-h)) / (2.0 * h);
            let got: f64 = grad.iter().enumerate().map(|(i, g)| g * direction(i)).sum();
            assert!((got - want).abs() < 1e-7 + 1e-6 * want.abs(), "{name}: {parameter} {got} {want}");
        }
    }
}

fn deviation(params: &Params, name: &str) -> f64 {
    let value = params.value(name).unwrap();
    let x: Vec<f64> = value.floats().iter().map(|x| f64::from(*x)).collect();
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()
}

/// The package's distributions, of 0.4.4 and of 0.3.2.
#[test]
fn parameters_start_as_in_the_package() {
    let large = BlockRecurrentConfig {
        dim: 96,
        dim_head: 32,
        heads: 3,
        block_width: 64,
        max_seq_len: 64,
        compressed_mem_factor: Some(4),
        num_state_vectors: None,
        all_layers_qk_rmsnorm: true,
        ..tiny()
    };
    assert_eq!((large.states(), BlockRecurrentConfig::new(9, 8, 6).writers()), (64, vec![3]));
    let uniform = |fan_in: usize| 1.0 / (3.0 * fan_in as f64).sqrt();
    for (config, std) in [(large.clone(), 0.1), (large.as_0_3_2(), 1.0)] {
        let (_, params) = model(&config);
        for (name, want) in [
            ("token_emb.weight", 1.0),
            ("layers.1.0.state_container.init_state", std),
            ("layers.1.0.state_container.state_pos_ids", 1.0),
            ("layers.1.0.state_container.learned_ema_beta", std),
            ("layers.0.0.to_q.weight", uniform(96)),
            ("layers.1.0.to_out.weight", uniform(2 * 96)),
            ("layers.1.0.state_container.to_state_out.weight", uniform(2 * 96)),
            ("layers.1.0.state_container.state_out_to_gate.bias", uniform(96)),
            ("layers.0.1.3.weight", uniform(config.ff_inner())),
            ("mem_manager.layers.0.1.1.weight", uniform(32 * 4)),
            ("mem_manager.layers.1.1.1.bias", uniform(32 * 4)),
        ] {
            let got = deviation(&params, name);
            assert!((got / want - 1.0).abs() < 0.25, "{name}: {got} for {want}");
        }
        for name in
            ["layers.0.0.attn.k_scale", "layers.1.0.state_container.state_self_attn.q_scale", "to_logits.0.gamma"]
        {
            assert!(params.value(name).unwrap().floats().iter().all(|x| *x == 1.0), "{name}");
        }
        assert!(params.value("layers.0.0.norm.beta").unwrap().floats().iter().all(|x| *x == 0.0));
        assert!(!params.get("layers.0.0.norm.beta").unwrap().is_trainable());
    }
}

/// Up to 0.3.1 the states' parameters have no prefix of their own.
#[test]
fn old_names_lack_the_container() {
    let names = |flat_state_names: bool| -> Vec<String> {
        let (_, params) = model(&BlockRecurrentConfig { flat_state_names, ..tiny() });
        params.names().map(str::to_owned).collect()
    };
    let without: Vec<String> = names(false).iter().map(|n| n.replace("state_container.", "")).collect();
    assert_eq!(names(true), without);
    assert!(without.contains(&"layers.1.0.init_state".to_owned()));
}
