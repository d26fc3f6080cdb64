//! Training or evaluation.

/// What a forward pass is for; layers that behave differently take it as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Training: dropout and other noise act.
    Train,
    /// Evaluation: they do not.
    Eval,
}
