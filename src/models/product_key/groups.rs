//! The values apart from the other parameters.

use crate::nn::Params;
use crate::train::{Group, RowUpdates};

/// Optimizer group of all tables of values.
pub const VALUES: &str = "values";

/// Names in checkpoints of the package up to 0.2.9 with `concat_values_and_combine`, for
/// [`LoadOptions::aliases`](crate::train::LoadOptions::aliases).
pub const OLDER_NAMES: [(&str, &str); 2] =
    [("values.weight", "values.0.weight"), ("maybe_concat_combine.2.weight", "values.3.weight")];

/// Names of the tables of values among the parameters: `fetch_pkm_value_parameters` of the package.
pub fn pkm_value_parameters(params: &Params) -> impl Iterator<Item = &str> {
    params.iter().filter(|p| p.group_name() == VALUES).map(|p| p.name())
}

/// Options of the group [`VALUES`]: a learning rate of `values_lr` (the package's is 1e-2) where that of the optimizer is
/// `lr`, no weight decay, and only rows that were read are updated.
pub fn values_group(lr: f64, values_lr: f64) -> Group {
    Group::default().lr_factor(values_lr / lr).weight_decay(0.0).rows(RowUpdates::PerRow)
}
