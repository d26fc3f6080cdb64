//! Causality, and segments in the store.

use super::{SEGMENT, VOCABULARY, kinds, logits, model, near, texts};
use crate::common;
use wgrad::{Feed, Graph, Tensor, TensorType};

/// A later token changes no earlier logits, and does change its own and, but for windows, later ones.
#[test]
fn nothing_looks_ahead() {
    let n = 3 * SEGMENT + 2;
    for device in common::devices() {
        for (name, config) in kinds() {
            let text = texts(1, n, 3);
            let before = logits(&device, &config, &text);
            for at in [1, SEGMENT - 1, SEGMENT, 2 * SEGMENT + 1, n - 1] {
                let mut changed = text.ints().to_vec();
                changed[at] = (changed[at] + 1) % VOCABULARY as u32;
                let after = logits(&device, &config, &Tensor::u32([1, n], changed).unwrap());
                let split = at * VOCABULARY;
                near(&format!("{name} before token {at} on {device}"), &before[..split], &after[..split], 1e-5);
                let own = split..split + VOCABULARY;
                assert_ne!(before[own.clone()], after[own], "{name}, token {at} on {device}");
            }
        }
    }
}

/// Segments one by one with states in the store give the losses of one graph with all of them; texts that begin anew forget.
#[test]
fn segments_in_the_store_are_segments_in_one_graph() {
    let segments = 4;
    for device in common::devices() {
        for (name, config) in kinds() {
            let (model, params) = model(&config);
            let n = segments * SEGMENT + 1;
            let text = texts(2, n, 2);
            let store = params.store(&device).unwrap();
            let whole = {
                let graph = Graph::new();
                let loss = model.loss(&params.vars(&graph), graph.input("ids", text.ty()));
                let plan = device.compile_blocking(&graph, &[("loss", loss)]).unwrap();
                plan.run(&Feed::new().store(&store).input("ids", &text)).unwrap();
                plan.read_blocking("loss").unwrap().floats()[0]
            };
            let graph = Graph::new();
            let input = graph.input("ids", TensorType::u32([2, SEGMENT + 1]));
            let begin = graph.input("begin", TensorType::u32([2]));
            let loss = model.segment_loss(&params.vars(&graph), input, Some(begin));
            let plan = device.compile_blocking(&graph, &[("loss", loss)]).unwrap();
            let kept = model.store(&device, 2).unwrap();
            let losses = |anew: bool| {
                let mut sum = 0.0;
                for s in 0..segments {
                    let rows = text.ints().chunks(n);
                    let piece: Vec<u32> = rows.flat_map(|row| row[s * SEGMENT..=(s + 1) * SEGMENT].to_vec()).collect();
                    let piece = Tensor::u32([2, SEGMENT + 1], piece).unwrap();
                    let begin = Tensor::u32([2], vec![u32::from(anew && s == 0); 2]).unwrap();
                    let feed = Feed::new().store(&store).store(&kept);
                    plan.run(&feed.input("ids", &piece).input("begin", &begin)).unwrap();
                    sum += plan.read_blocking("loss").unwrap().floats()[0] / segments as f32;
                }
                sum
            };
            let first = losses(false);
            near(&format!("{name} on {device}"), &[first], &[whole], 1e-5);
            assert_eq!(first, losses(true), "{name} on {device}: texts that begin anew forget");
            model.restart(&kept, 2).unwrap();
            assert_eq!(first, losses(false), "{name} on {device}: texts that were restarted forget");
        }
    }
}
