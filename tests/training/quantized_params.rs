//! Memories with quantised values: they answer as those of the rounded values, take their space, and are saved and loaded
//! rounded; they are not trained.

use crate::common;
use crate::common::modules::{assert_close, noise, run};
use safetensors::tensor::{Dtype, SafeTensors};
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, PkmStream, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, ProductKeyMemory,
};
use wgrad::nn::{Init, Params, QuantRows, QuantTableType, Quantization};
use wgrad::ops::select::Sampling;
use wgrad::train::{Adam, Checkpoint, LoadOptions, Trainer};
use wgrad::{Device, Error, Graph, Result, Tensor, TensorType};

const BOTH: [Quantization; 2] = [Quantization::F16, Quantization::Int8];
const DIM: usize = 10;
const NAME: &str = "pkm.values.weight";

fn layer(concat: bool) -> Result<(ProductKeyMemory, Params)> {
    let mut params = Params::new(3);
    let config = ProductKeyConfig {
        heads: 2,
        num_keys: 12,
        topk: 3,
        dim_head: 5,
        concat_values_and_combine: concat,
        ..ProductKeyConfig::new(DIM)
    };
    let layer = ProductKeyMemory::new(&mut params, "pkm", config)?;
    Ok((layer, params))
}

fn quantized(params: &Params, how: Quantization) -> Result<Params> {
    let mut params = params.clone();
    params.get_mut(NAME)?.quantized(how);
    Ok(params)
}

/// The values as they are after rounding.
fn rounded(params: &Params, how: Quantization) -> Result<Tensor> {
    let values = params.value(NAME)?;
    let ty = QuantTableType::new(how, values.shape()[0], values.shape()[1])?;
    let rows: QuantRows = ty.quantize(&values)?;
    ty.dequantize(&rows)
}

fn forward(device: &Device, layer: &ProductKeyMemory, params: &Params, x: &Tensor) -> Vec<f32> {
    let out = run(device, params, &[("x", x)], |p, x| {
        // A mask of what is trained changes nothing where nothing is.
        let lookup = Lookup::new(Mode::Eval, 0).trainable(x[0].graph().full_u32([144], 1));
        vec![layer.forward(p, x[0], &lookup)]
    });
    out[0].floats().to_vec()
}

#[test]
fn memories_answer_as_with_rounded_values() -> Result<()> {
    let x = noise(&[2, 6, DIM], 1);
    for device in common::devices() {
        for (how, concat) in BOTH.into_iter().flat_map(|how| [(how, false), (how, true)]) {
            let (layer, plain) = layer(concat)?;
            let mut cut = quantized(&plain, how)?;
            let mut floats = plain.clone();
            floats.set(NAME, rounded(&plain, how)?)?;
            let want = forward(&device, &layer, &floats, &x);
            assert_close("rounded values", &forward(&device, &layer, &cut, &x), &want);
            let exact = forward(&device, &layer, &plain, &x);
            assert!(exact != want, "rounding shows");
            // Pieces of a few rows, whose scales stay in one.
            cut.limit(1000);
            assert_close("in pieces", &forward(&device, &layer, &cut, &x), &want);

            let bytes = |p: &Params| p.store(&device).map(|s| s.bytes());
            let width = layer.config().width() as u64;
            let saved = match how {
                Quantization::F16 => 144 * (4 * width - 4 * width.div_ceil(2)),
                Quantization::Int8 => 144 * (4 * width - 4 * width.div_ceil(4) - 4),
            };
            let (all, less) = (bytes(&plain)?, bytes(&quantized(&plain, how)?)?);
            // Flat states are padded to 256 bytes.
            assert!((all - less).abs_diff(saved) < 512, "{how:?}: {all} {less} {saved}");
        }
    }
    Ok(())
}

#[test]
fn files_hold_what_was_rounded() -> Result<()> {
    for (how, dtype) in BOTH.into_iter().zip([Dtype::F16, Dtype::I8]) {
        let (layer, plain) = layer(true)?;
        let params = quantized(&plain, how)?;
        let file = params.to_bytes()?;
        let read = SafeTensors::deserialize(&file).expect("a file that other programs read");
        let view = read.tensor(NAME).expect("the table");
        assert_eq!((view.dtype(), view.shape()), (dtype, &[144, 5][..]));
        assert_eq!(read.tensor("pkm.values.weight.scales").is_ok(), how == Quantization::Int8);
        if how == Quantization::F16 {
            let halves: Vec<f32> =
                view.data().chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            assert_eq!(halves, rounded(&plain, how)?.floats());
        }
        assert!(file.len() < plain.to_bytes()?.len());

        // Into a quantised parameter, whatever it held; into one of floats; and saved again.
        let mut again = quantized(&plain, how)?.with_seed(9);
        Checkpoint::from_bytes(file.clone())?.load_into(&mut again, &LoadOptions::default())?;
        assert!(again.to_bytes()? == file, "{how:?}: rounding what was rounded changes nothing");
        let mut floats = plain.clone().with_seed(10);
        Checkpoint::from_bytes(file.clone())?.load_into(&mut floats, &LoadOptions::default())?;
        assert_eq!(floats.value(NAME)?, rounded(&plain, how)?);
        // Under a prefix, as part of a larger model.
        let mut inner = Params::new(5);
        inner.add("values.weight", [144, 5], Init::Zeros);
        let options = LoadOptions { prefix: "pkm.".into(), allow_extra: true, ..Default::default() };
        let loaded = Checkpoint::from_bytes(file.clone())?.load_into(&mut inner, &options)?;
        assert!(!loaded.extra.iter().any(|n| n.ends_with("scales")));
        assert_eq!(inner.value("values.weight")?, rounded(&plain, how)?);

        let x = noise(&[5, DIM], 2);
        for device in common::devices() {
            assert_eq!(forward(&device, &layer, &params, &x), forward(&device, &layer, &again, &x), "bit for bit");
        }
    }
    Ok(())
}

#[test]
fn generating_from_quantised_values() -> Result<()> {
    let memory = ProductKeyConfig { heads: 2, num_keys: 6, topk: 3, dim_head: 4, ..ProductKeyConfig::new(12) };
    let config = PkmTransformerConfig { dim_head: 6, heads: 2, ..PkmTransformerConfig::new(11, 2, 8, memory) };
    let model = PkmTransformer::new(config)?;
    let values = model.memories().map(|(_, m)| m.values()).collect::<Vec<_>>();
    for device in common::devices() {
        for how in BOTH {
            let mut params = model.init(4);
            values.iter().try_for_each(|name| params.get_mut(name).map(|p| _ = p.quantized(how)))?;
            let store = params.store(&device)?;
            assert!(store.names().iter().any(|n| n.starts_with("quantized/")));
            let plans = pollster::block_on(model.stream_plans(&device, &params, 1))?;
            let mut stream = PkmStream::new(&plans)?;
            stream.feed_blocking(&store, &[&[1, 2, 3]])?;
            assert_eq!(stream.generate_blocking(&store, 12, Sampling::greedy(), 0)?[0].len(), 12);
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (layer, plain) = layer(false)?;
    let params = quantized(&plain, Quantization::Int8)?;
    // Not trained.
    let trained = Trainer::builder(&Device::cpu(), params.clone(), Adam::default()).compile_blocking(|g, p| {
        layer.forward(p, g.input("x", TensorType::f32([1, DIM])), &Lookup::new(Mode::Train, 0)).sum_all()
    });
    let message = trained.err().expect("a refusal").to_string();
    assert!(message.contains("quantised") && message.contains(NAME), "{message}");
    // No variable, no floats in pieces.
    for sharded in [false, true] {
        let graph = Graph::new();
        let p = params.vars(&graph);
        match sharded {
            false => _ = p.get(NAME),
            true => drop(p.sharded(NAME)),
        }
        let message = graph.error().expect("a refusal").to_string();
        assert!(message.contains("ParamVars::table") && message.contains("quantized_params.rs"), "{message}");
    }
    // No table.
    let mut params = plain.clone();
    params.get_mut("pkm.keys")?.quantized(Quantization::F16);
    assert!(matches!(params.store(&Device::cpu()), Err(Error::Name { .. })));
    let graph = Graph::new();
    params.vars(&graph);
    assert!(matches!(graph.error(), Some(Error::Name { .. })));
    // More scales than a state holds.
    let mut params = Params::new(0);
    params.add("many", [1000, 1], Init::Ones).quantized(Quantization::Int8);
    params.limit(3999);
    assert!(matches!(params.store(&Device::cpu()), Err(Error::Limit { needed: 4000, available: 3999, .. })));
    // Values that bytes cannot stand for.
    let mut params = quantized(&plain, Quantization::F16)?;
    params.set(NAME, Tensor::f32([144, DIM], vec![1e6; 144 * DIM])?)?;
    assert!(params.store(&Device::cpu()).is_err() && params.to_bytes().is_err());
    // Bytes without scales.
    let file = quantized(&plain, Quantization::Int8)?.to_bytes()?;
    let mut renamed = file.clone();
    let at = file.windows(7).position(|w| w == b".scales").expect("scales");
    renamed[at..at + 7].copy_from_slice(b".scalez");
    let loaded = Checkpoint::from_bytes(renamed)?
        .load_into(&mut plain.clone(), &LoadOptions { allow_extra: true, ..Default::default() });
    assert!(matches!(loaded, Err(Error::Checkpoint { .. })));
    Ok(())
}
