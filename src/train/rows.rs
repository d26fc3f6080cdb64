//! Tables whose touched rows alone are updated.

use super::build::{INDICES, VALUES, WEIGHTS, gathered};
use super::optimizer::{Group, Optimizer};
use crate::error::{Error, Result};
use crate::graph::{Factors, Gradient, Graph, Rows};
use crate::nn::{Params, Shard};
use crate::types::TensorType;
use std::collections::BTreeMap;
use std::ops::Range;

/// How the tables of a group are updated: matrices `[rows, width]` from which the loss only gathers, so that their
/// gradient names some rows, such as token embeddings and the values of a product-key memory.
///
/// The formulas for a touched row are those of the optimizer, with all hits of the row (of all micro-batches) added up
/// first; a row counts as touched when its index occurs, even with a gradient of 0. Clipping and the finite check see
/// the same norm in every case. What differs from [`Dense`](Self::Dense) under the other two:
///
/// 1. moments and velocities of untouched rows do not decay, so they average over touches and not over steps;
/// 2. untouched rows do not move: dense Adam goes on moving a row after a touch, in all by 1 / (1 - β1 / √β2), about
///    10 times the step of the touch itself; nor does weight decay reach them (AdamW's either);
/// 3. the first touch at step t moves a row by the learning rate under [`PerRow`](Self::PerRow), and by
///    (1-β1) / (1-β1^t) √((1-β2^t) / (1-β2)) times that under [`Global`](Self::Global), which tends to 3.2 for the default
///    β1 and β2.
///
/// If every row is touched at every step, all three are the same. Under the last two nothing of the size of the table is
/// cleared, read, copied or counted in a step: it costs what its hits cost.
///
/// A parameter of such a group whose gradient is no list of rows (a bias; a table that is also multiplied with, such as a
/// tied output layer) has a dense gradient, which touches every row: it is updated as under `Dense`. A matrix that the loss
/// does not use has no hits.
/// How a table larger than one binding is cut ([`Params::limit`]) makes no difference under `PerRow` and `Global`; under
/// `Dense` the squares of the norm add up in another order, which clipping may show in the last bit.
/// [`Trainer::row_updates`](super::Trainer::row_updates) tells which are updated by rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowUpdates {
    /// Every row at every step; a row without hits has gradient 0. As PyTorch's optimizers with dense gradients.
    #[default]
    Dense,
    /// Touched rows, each with its own number of the step in Adam's bias corrections (Kingma and Ba, arXiv 1412.6980):
    /// every row is a parameter of its own whose gradient is missing (PyTorch: `None`) at other steps. Recommended: no
    /// step is larger than Adam's. Adam and AdamW keep one u32 a row for it, which checkpoints hold.
    PerRow,
    /// Touched rows, with the number of the step of all parameters, as PyTorch's `SparseAdam` and TensorFlow's
    /// `LazyAdam`; `SparseAdam` adds its ε outside the bias correction: ε here is ε / √(1-β2^t) there. For SGD the same as
    /// `PerRow`.
    Global,
}

impl RowUpdates {
    /// Name of the rule in checkpoints.
    pub(super) fn name(self, optimizer: &Optimizer) -> &'static str {
        match self {
            RowUpdates::Dense => "dense",
            _ if !optimizer.corrects_bias() => "rows",
            RowUpdates::PerRow => "per_row",
            RowUpdates::Global => "global",
        }
    }
}

/// A table that is updated by rows; it has flat buffers of its own.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Name of the parameter.
    pub name: String,
    pub rows: usize,
    pub width: usize,
    /// Rows of each piece, in order; one if it is not cut.
    pub pieces: Vec<Range<usize>>,
    /// Hits of one (micro-)batch.
    pub hits: usize,
    /// Hits that share a row of values, if they are weighted.
    pub per: Option<usize>,
    /// Not `Dense`.
    pub rule: RowUpdates,
}

impl Table {
    /// The kinds of states for its hits, where a step has several (micro-)batches.
    pub fn kinds(&self) -> &'static [&'static str] {
        match (self.hits, self.per) {
            (0, _) => &[],
            (_, None) => &[INDICES, VALUES],
            (_, Some(_)) => &[INDICES, VALUES, WEIGHTS],
        }
    }

    /// Rows of values of one (micro-)batch.
    pub fn values(&self) -> usize {
        self.hits / self.per.unwrap_or(1).max(1)
    }
}

/// A trained flat buffer, or those of a table that is updated by rows, and how they are updated.
#[derive(Clone, Debug)]
pub(super) struct Trained {
    /// One, or one for each piece of the table.
    pub shards: Vec<Shard>,
    pub group: Group,
    /// What they hold, if that is updated by rows.
    pub table: Option<Table>,
}

impl Trained {
    /// Name of a state that belongs to all buffers together.
    pub fn state(&self, kind: &str) -> String {
        format!("{kind}/{}", self.shards.first().map_or("", |s| &s.state))
    }

    /// The hits of the batches of a step that are accumulated, of this rank or gathered of all.
    pub fn hits<'g>(&self, graph: &'g Graph, table: &Table, batches: usize, all: bool) -> Rows<'g> {
        let (hits, width) = (table.hits, table.width);
        let state = |kind: &str, ty| {
            let name = self.state(kind);
            graph.state(&if all { gathered(&name) } else { name }, ty)
        };
        let weights = |per| {
            let weights = state(WEIGHTS, TensorType::f32([batches, hits])).reshape([batches * hits]);
            Factors { weights, per }
        };
        let values = state(VALUES, TensorType::f32([batches, table.values() * width]));
        Rows {
            indices: state(INDICES, TensorType::u32([batches, hits])).reshape([batches * hits]),
            values: values.reshape([batches * table.values(), width]),
            rows: table.rows,
            factors: table.per.map(weights),
        }
    }

    /// The table, if touches of its rows are counted.
    pub fn counted(&self, optimizer: &Optimizer) -> Option<&Table> {
        self.table.as_ref().filter(|t| t.rule == RowUpdates::PerRow && optimizer.corrects_bias())
    }
}

/// The hits of a table from the gradients of its pieces (`pieces`: the rows of each), if these are made of hits:
/// `Some(None)` if there are none at all. Row numbers are those of the whole table.
pub(super) fn hits<'g>(pieces: &[Range<usize>], grads: &[Gradient<'g>]) -> Option<Option<Rows<'g>>> {
    let lists: Vec<&[Rows<'g>]> = grads.iter().map(listed).collect::<Option<_>>()?;
    let (first, others) = lists.split_first()?;
    let rows = pieces.last()?.end;
    // A use of the whole table hands all pieces the same hits, counted from the first row of each.
    let used_whole = |(i, hit): (usize, &Rows<'g>)| {
        others.iter().zip(&pieces[1..]).all(|(list, piece)| {
            let same = |r: &Rows<'g>| {
                let factors = match (r.factors, hit.factors) {
                    (Some(a), Some(b)) => a.per == b.per && a.weights.alike(b.weights),
                    (a, b) => a.is_none() && b.is_none(),
                };
                factors && r.values.alike(hit.values) && r.indices.alike(hit.indices - piece.start as u32)
            };
            list.len() == first.len() && list.get(i).is_some_and(same)
        })
    };
    if first.iter().enumerate().all(used_whole) && others.iter().all(|list| list.len() == first.len()) {
        let whole: Vec<Rows<'g>> = first.iter().map(|hit| Rows { rows, ..*hit }).collect();
        return Some(Rows::concat(&whole));
    }
    // Some piece was used by itself: its hits name no row of another.
    let moved = |(list, piece): (&&[Rows<'g>], &Range<usize>)| -> Vec<Rows<'g>> {
        let one = |hit: &Rows<'g>| {
            let own = hit.indices.lt(piece.len() as u32);
            Rows { indices: own.select(hit.indices + piece.start as u32, rows as u32), rows, ..*hit }
        };
        list.iter().map(one).collect()
    };
    let all: Vec<Rows<'g>> = lists.iter().zip(pieces).flat_map(moved).collect();
    Some(Rows::concat(&all))
}

/// The hits of one piece, if its gradient is made of hits.
fn listed<'a, 'g>(grad: &'a Gradient<'g>) -> Option<&'a [Rows<'g>]> {
    match grad {
        Gradient::None => Some(&[]),
        Gradient::Dense(_) => None,
        Gradient::Rows(all) => Some(all),
    }
}

/// Name of the rule of every table that is updated by rows, as checkpoints state it: a JSON object.
pub(super) fn rules(trained: &[Trained], optimizer: &Optimizer) -> BTreeMap<String, String> {
    let tables = trained.iter().filter_map(|t| t.table.as_ref());
    tables.map(|t| (t.name.clone(), t.rule.name(optimizer).to_owned())).collect()
}

/// Refuses a checkpoint whose tables were updated by other rules: its moments and counts mean something else.
pub(super) fn check_rules(theirs: Option<&str>, ours: &BTreeMap<String, String>, params: &Params) -> Result<()> {
    let theirs: BTreeMap<String, String> = match theirs {
        None => BTreeMap::new(),
        Some(text) => serde_json::from_str(text).map_err(|e| {
            let message = format!("metadata wgrad.rows: expected the rule of each table, found {text} ({e})");
            Error::checkpoint(None, message)
        })?,
    };
    let dense = "dense".to_owned();
    for name in params.names() {
        let (own, found) = (ours.get(name).unwrap_or(&dense), theirs.get(name).unwrap_or(&dense));
        if own != found {
            let message = format!(
                "expected a table updated by the rule {own}, the file's was updated by {found}; give its group that rule \
                 with Group::rows, or load only the parameters"
            );
            return Err(Error::checkpoint(Some(name), message));
        }
    }
    Ok(())
}
