//! The parameters inside a graph.

use super::layout::rounded_state;
use super::params::Params;
use super::{QuantTable, Sharded};
use crate::error::{Error, Where};
use crate::graph::{Graph, Var};
use rustc_hash::FxHashMap;
use std::rc::Rc;

impl Params {
    /// Declares the flat states in a graph and gives every parameter as a view of its state, and tables as views of
    /// theirs.
    pub fn vars<'g>(&self, graph: &'g Graph) -> ParamVars<'g> {
        let shards = self.shards().unwrap_or_else(|error| {
            graph.fail(error);
            Vec::new()
        });
        let mut views: Vec<Vec<Var<'g>>> = vec![Vec::new(); self.len()];
        let mut states: Vec<Option<Var<'g>>> = vec![None; self.len()];
        for shard in shards {
            let leaf = graph.state(&shard.state, shard.ty());
            let state = shard.group.is_none().then_some(leaf);
            for s in &shard.segments {
                let (Some(p), Some(views)) = (self.nth(s.param), views.get_mut(s.param)) else {
                    continue;
                };
                let mut shape = p.shape().clone();
                if let &[rows, width] = &shape[..] {
                    shape.0[0] = s.len.checked_div(width).unwrap_or(rows);
                }
                views.push(leaf.slice(0, s.offset, s.len).reshape(shape));
                states[s.param] = state;
            }
        }
        let all = self.iter().zip(views.into_iter().zip(states)).filter_map(|(p, (views, state))| {
            let view = match (self.rounded(p), &views[..]) {
                (Ok(Some(ty)), _) => View::Rounded(ty.state(graph, &rounded_state(p))),
                (_, []) => return None,
                (_, [var]) if !p.is_sharded() => View::Whole { var: *var, state },
                (_, pieces) => View::Table(Sharded::new(graph, pieces)),
            };
            Some((p.name().to_owned(), view))
        });
        ParamVars::from_views(graph, all.collect())
    }
}

/// A parameter in the graph.
enum View<'g> {
    /// With the flat state that holds it, unless it is trained: then it belongs to the optimizer.
    Whole {
        var: Var<'g>,
        state: Option<Var<'g>>,
    },
    Table(Sharded<'g>),
    Rounded(QuantTable<'g>),
}

/// A parameter `[rows, width]` from which rows are read, however it is stored.
#[derive(Clone)]
pub enum Table<'g> {
    /// Floats, in one piece or several.
    Floats(Sharded<'g>),
    /// Rounded, for inference.
    Rounded(QuantTable<'g>),
}

impl<'g> Table<'g> {
    /// [`Var::weighted_gather`], with hits of rows that `trained` (u32 0/1 `[rows]`) marks with 0 left out of the table's
    /// gradient. A rounded table has none.
    #[track_caller]
    pub fn weighted_gather(&self, indices: Var<'g>, weights: Var<'g>, trained: Option<Var<'g>>) -> Var<'g> {
        match (self, trained) {
            (Table::Floats(table), None) => table.weighted_gather(indices, weights),
            (Table::Floats(table), Some(trained)) => table.weighted_gather_masked(indices, weights, trained),
            (Table::Rounded(table), _) => table.weighted_gather(indices, weights),
        }
    }
}

struct Views<'g> {
    index: FxHashMap<String, usize>,
    views: Vec<(String, View<'g>)>,
}

/// The parameters inside a graph. Cloning gives another handle to the same variables.
#[derive(Clone)]
pub struct ParamVars<'g> {
    graph: &'g Graph,
    all: Rc<Views<'g>>,
    prefix: String,
}

impl<'g> ParamVars<'g> {
    /// Variables under names of one's own choice, for a model whose parameters live elsewhere than in [`Params`].
    pub fn from_vars(graph: &'g Graph, vars: impl IntoIterator<Item = (String, Var<'g>)>) -> Self {
        Self::from_views(
            graph,
            vars.into_iter().map(|(name, var)| (name, View::Whole { var, state: Some(var) })).collect(),
        )
    }

    fn from_views(graph: &'g Graph, views: Vec<(String, View<'g>)>) -> Self {
        let index = views.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        ParamVars { graph, all: Rc::new(Views { index, views }), prefix: String::new() }
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// A parameter, f32 of the shape it was added with; the graph fails if there is none of this name, or if it is a table in pieces.
    #[track_caller]
    pub fn get(&self, name: &str) -> Var<'g> {
        let location = Where::caller();
        match self.view(name) {
            Some(View::Whole { var, .. }) => return *var,
            Some(View::Table(table)) => {
                let (ty, pieces) = (table.ty(), table.shards().len());
                let message = format!(
                    "a table [{}, {}] (pieces: {pieces}) has no variable of its own; use ParamVars::sharded instead of get \
                     at {location}",
                    ty.rows(),
                    ty.width()
                );
                self.refuse(name, message);
            }
            Some(View::Rounded(_)) => self.refuse(name, rounded(&location)),
            None => {}
        }
        self.graph.full([], 0.0)
    }

    /// A parameter `[rows, width]` as a table, cut into pieces if it is larger than one binding, else in one piece; the
    /// graph fails if there is none of this name, or if it is no matrix.
    #[track_caller]
    pub fn sharded(&self, name: &str) -> Sharded<'g> {
        let location = Where::caller();
        match self.view(name) {
            Some(View::Table(table)) => return table.clone(),
            Some(View::Whole { var, .. }) if var.rank() == 2 => return Sharded::new(self.graph, &[*var]),
            Some(View::Whole { var, .. }) => {
                self.refuse(name, format!("expected a table [rows, width], it is {} at {location}", var.ty()));
            }
            Some(View::Rounded(_)) => self.refuse(name, rounded(&location)),
            None => {}
        }
        Sharded::new(self.graph, &[self.graph.full([0, 0], 0.0)])
    }

    /// A parameter `[rows, width]` to read rows from, be it rounded ([`Param::quantized`](super::Param::quantized)) or as
    /// [`sharded`](Self::sharded).
    #[track_caller]
    pub fn table(&self, name: &str) -> Table<'g> {
        match self.view(name) {
            Some(View::Rounded(table)) => Table::Rounded(table.clone()),
            _ => Table::Floats(self.sharded(name)),
        }
    }

    /// Writes a value (of the same shape) into a [buffer](super::Param::buffer) at the end of the run, as
    /// [`Graph::assign`] does: such as the running statistics of a batch norm. The graph fails if the parameter is trained,
    /// a table, or written twice.
    #[track_caller]
    pub fn assign(&self, name: &str, value: Var<'g>) {
        let message = match self.view(name) {
            None => return,
            Some(View::Whole { var, state: Some(state) }) if var.ty() == value.ty() => {
                let (n, room) = (var.shape().numel(), state.shape().numel());
                // A flat state may be longer than the buffer it holds.
                let flat = if state.shape() == var.shape() { value } else { value.reshape([n]).pad(0, 0, room - n) };
                return self.graph.assign(*state, flat);
            }
            Some(View::Whole { var, state: Some(_) }) => format!("it is {}, the value {}", var.ty(), value.ty()),
            Some(_) => "it is trained or a table; only buffers are written, mark it with Param::buffer".to_owned(),
        };
        if self.graph.error().is_none() {
            self.refuse(name, message);
        }
    }

    /// The parameter; the graph fails if there is none.
    #[track_caller]
    fn view(&self, name: &str) -> Option<&View<'g>> {
        let full = format!("{}{name}", self.prefix);
        let found = self.all.index.get(&full).and_then(|i| self.all.views.get(*i));
        if found.is_none() {
            let known = self.all.index.keys().filter_map(|known| known.strip_prefix(&self.prefix));
            let known = crate::error::some(known);
            self.refuse(name, format!("the model's parameters have no such name; there are {known}"));
        }
        found.map(|(_, view)| view)
    }

    #[track_caller]
    fn refuse(&self, name: &str, message: String) {
        let name = format!("{}{name}", self.prefix);
        self.graph.fail(Error::Name { kind: "parameter", name, message });
    }

    /// Piece `piece` of the parameter that was added as number `index`: itself, if it is not cut.
    pub(crate) fn piece(&self, index: usize, piece: usize) -> Option<Var<'g>> {
        match &self.all.views.get(index)?.1 {
            View::Whole { var, .. } => Some(*var),
            View::Table(table) => table.shards().get(piece).copied(),
            View::Rounded(_) => None,
        }
    }

    /// The parameters below `prefix`: `scope("layers.0").get("weight")` is `get("layers.0.weight")`.
    pub fn scope(&self, prefix: &str) -> ParamVars<'g> {
        ParamVars { prefix: format!("{}{prefix}.", self.prefix), ..self.clone() }
    }

    /// All names, whatever the scope.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.views.iter().map(|(name, _)| name.as_str())
    }
}

fn rounded(location: &Where) -> String {
    format!("rows of a quantised table are read with ParamVars::table at {location}")
}
