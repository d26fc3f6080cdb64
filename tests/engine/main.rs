//! Graph, plans, executors: errors with their place, limits, faults, reuse.

#[path = "../common/mod.rs"]
mod common;
mod custom;
mod faults;
mod first_hour;
mod invalid_programs;
mod limits;
mod lost;
mod memory;
mod observe;
mod plan_cache;
mod plans;
mod sharing;
mod states;
