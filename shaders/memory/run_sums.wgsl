// Sums of runs into a table.
// #include "shared/grid.wgsl"
// #include "shared/value.wgsl"
// #include "shared/runs.wgsl"
// #include "shared/run_sum.wgsl"
// #include "shared/run_sums.wgsl"
