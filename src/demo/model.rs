//! A neural probabilistic language model (Bengio et al. 2003, JMLR 3): the last bytes' embeddings side by side, one
//! hidden layer, logits of the next byte.

use crate::error::Result;
use crate::exec::Store;
use crate::graph::Var;
use crate::types::{Tensor, TensorType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Bytes the model sees.
pub const CONTEXT: usize = 8;
const BYTES: usize = 256;
const EMBEDDING: usize = 16;
const HIDDEN: usize = 128;

/// Name, rows, columns; the first extent is the fan-in, 1 marks a bias.
const PARAMETERS: [(&str, [usize; 2]); 5] = [
    ("embedding.weight", [BYTES, EMBEDDING]),
    ("hidden.weight", [CONTEXT * EMBEDDING, HIDDEN]),
    ("hidden.bias", [1, HIDDEN]),
    ("output.weight", [HIDDEN, BYTES]),
    ("output.bias", [1, BYTES]),
];

/// Draws the parameters: embeddings uniform in ±1, weights in ±sqrt(1 / fan-in), biases 0.
pub fn initialize(store: &Store, seed: u64) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, shape) in PARAMETERS {
        let bound = match (name, shape[0]) {
            ("embedding.weight", _) => 1.0,
            (_, 1) => 0.0,
            (_, fan_in) => (fan_in as f32).sqrt().recip(),
        };
        let values = (0..shape[0] * shape[1]).map(|_| bound * (2.0 * rng.random::<f32>() - 1.0)).collect();
        store.set(name, &Tensor::f32(shape, values)?)?;
    }
    Ok(())
}

/// Parameters and the mean loss of `windows`, u32 `[batch, CONTEXT + 1]`.
pub fn build<'g>(windows: Var<'g>) -> (Vec<Var<'g>>, Var<'g>) {
    let graph = windows.graph();
    let parameters: Vec<Var<'g>> =
        PARAMETERS.iter().map(|(name, shape)| graph.state(name, TensorType::f32(*shape))).collect();
    let [embedding, hidden, hidden_bias, output, output_bias] = parameters[..] else {
        return (parameters, graph.full([], 0.0));
    };
    let batch = windows.dim(0);
    let context = one_hot(windows.slice(1, 0, CONTEXT));
    let seen = context.matmul(embedding).reshape([batch, CONTEXT * EMBEDDING]);
    let logits = (seen.matmul(hidden) + hidden_bias).tanh().matmul(output) + output_bias;
    let next = one_hot(windows.slice(1, CONTEXT, 1)).reshape([batch, BYTES]);
    let shifted = logits - logits.max(1).stop_gradient();
    let log_sum = shifted.exp().sum(1).ln();
    let loss = (log_sum - (shifted * next).sum(1)).mean_all();
    (parameters, loss)
}

/// u32 `[batch, n]` to f32 `[batch, n, 256]`.
fn one_hot(bytes: Var<'_>) -> Var<'_> {
    let numbers = Tensor::u32([BYTES], (0..BYTES as u32).collect());
    match numbers {
        Ok(numbers) => bytes.unsqueeze(2).eq(bytes.graph().constant(numbers)).to_f32(),
        Err(error) => {
            bytes.graph().fail(error);
            bytes
        }
    }
}
