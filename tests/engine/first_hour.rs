//! The mistakes of a first hour, as a newcomer makes them, and what the library says.

use wgrad::nn::{Linear, Params};
use wgrad::train::{Adam, LoadOptions, Trainer};
use wgrad::{Device, Feed, GpuOptions, Graph, Result, Store, Tensor, TensorType};

/// What a call says; the lines of this file, the temporary folder and the machine's own adapters left out.
fn said<T>(what: &str, result: Result<T>, folder: &std::path::Path) -> (String, String) {
    let text = result.err().unwrap_or_else(|| panic!("{what} went well")).to_string();
    let text = text.replace(&folder.display().to_string(), "FOLDER");
    let cut = |text: &str, from: &str, to: &str| match text.split_once(from) {
        Some((head, tail)) => format!("{head}{from}…{}", tail.find(to).map_or("", |at| &tail[at..])),
        None => text.to_owned(),
    };
    let text = cut(&text, "found: ", "; ");
    let line = text.split_once("first_hour.rs:").map(|(head, tail)| {
        let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
        format!("{head}first_hour.rs:LINE{rest}")
    });
    (what.to_owned(), line.unwrap_or(text))
}

#[test]
fn mistakes_of_a_first_hour() {
    let device = Device::cpu();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("first_hour");
    std::fs::create_dir_all(&folder).expect("a folder");
    let place = |name: &str| folder.join(name);
    let mut all = Vec::new();
    let mut say = |what: &str, result: Result<()>| all.push(said(what, result, &folder));

    say("no such adapter", Device::named_blocking("GeForce 9999", GpuOptions::default()).map(drop));

    let graph = Graph::new();
    let (x, w) = (graph.input("x", TensorType::f32([4, 3])), graph.input("w", TensorType::f32([4, 2])));
    say("a product that does not fit", device.compile_blocking(&graph, &[("y", x.matmul(w))]).map(drop));
    let graph = Graph::new();
    let (x, b) = (graph.input("x", TensorType::f32([4, 3])), graph.input("b", TensorType::f32([4])));
    say("a bias of the wrong length", device.compile_blocking(&graph, &[("y", x + b)]).map(drop));
    let graph = Graph::new();
    let (table, ids) = (graph.input("table", TensorType::f32([9, 2])), graph.input("ids", TensorType::f32([3])));
    say("ids that are floats", device.compile_blocking(&graph, &[("rows", table.gather(ids))]).map(drop));
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([4, 3]));
    let loss = x.square().mean_all();
    let dx = graph.grad(x, &[x]).first().and_then(|g| g.dense()).unwrap_or(x);
    say("a gradient of many numbers", device.compile_blocking(&graph, &[("dx", dx), ("loss", loss)]).map(drop));
    let huge = Graph::new();
    let long = huge.input("x", TensorType::f32([1 << 16, 1 << 16]));
    say("a tensor of 16 GiB", device.compile_blocking(&huge, &[("y", long.exp())]).map(drop));

    let graph = Graph::new();
    let y = graph.input("x", TensorType::f32([2, 3])).softmax(1) + graph.state("bias", TensorType::f32([3]));
    let plan = device.compile_blocking(&graph, &[("y", y)]).expect("a sound graph");
    let tensor = |shape: [usize; 2]| Tensor::f32(shape, vec![0.0; shape[0] * shape[1]]).expect("as many");
    let (right, wrong) = (tensor([2, 3]), tensor([3, 2]));
    let store = Store::new(&device);
    say("too few numbers for a shape", Tensor::f32([2, 3], vec![0.0; 5]).map(drop));
    say("no store", plan.run(&Feed::new().input("x", &right)).map(drop));
    say("an empty store", plan.run(&Feed::new().input("x", &right).store(&store)).map(drop));
    store.set("bias", &Tensor::f32([3], vec![0.0; 3]).expect("three")).expect("it fits");
    say("an input of another shape", plan.run(&Feed::new().input("x", &wrong).store(&store)).map(drop));
    say("an input of another name", plan.run(&Feed::new().input("X", &right).store(&store)).map(drop));
    say("a forgotten input", plan.run(&Feed::new().store(&store)).map(drop));
    say("an output of another name", plan.read_blocking("logits").map(drop));

    let model = |width: usize| {
        let mut params = Params::new(0);
        let layer = Linear::new(&mut params, "head", 8, width, true);
        (params, layer)
    };
    let (params, layer) = model(4);
    params.save(place("four.safetensors")).expect("it is saved");
    std::fs::write(place("text.safetensors"), "not a checkpoint at all, but a text").expect("it is written");
    let bytes = std::fs::read(place("four.safetensors")).expect("it is read");
    std::fs::write(place("half.safetensors"), &bytes[..bytes.len() / 2]).expect("it is written");
    for (what, file, width) in [
        ("a checkpoint that is not there", "five.safetensors", 4),
        ("a checkpoint of another width", "four.safetensors", 5),
        ("a file that is no checkpoint", "text.safetensors", 4),
        ("half a checkpoint", "half.safetensors", 4),
    ] {
        say(what, model(width).0.load(place(file), &LoadOptions::default()).map(drop));
    }
    let mut other = Params::new(0);
    Linear::new(&mut other, "body", 8, 4, true);
    say("a checkpoint of another model", other.load(place("four.safetensors"), &LoadOptions::default()).map(drop));

    let mut trainer = Trainer::builder(&device, params, Adam::default())
        .compile_blocking(|graph, p| layer.forward(p, graph.input("x", TensorType::f32([2, 8]))).square().mean_all())
        .expect("a sound loss");
    say("a step without its data", trainer.step(&[]).map(drop));
    say("a loss before the first step", trainer.loss_blocking().map(drop));
    let per_row = Trainer::builder(&device, model(4).0, Adam::default())
        .compile_blocking(|graph, p| layer.forward(p, graph.input("x", TensorType::f32([2, 8]))).square().sum(1));
    say("a loss of every row", per_row.map(drop));
    let unknown = Trainer::builder(&device, model(4).0, Adam::default()).compile_blocking(|_, p| p.get("tail.weight"));
    say("a parameter of another name", unknown.map(drop));

    let lines: Vec<String> = all.iter().map(|(what, text)| format!("{what}\n    {text}")).collect();
    insta::assert_snapshot!("mistakes", lines.join("\n"));
}
