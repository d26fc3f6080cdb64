// Sums of runs into a table whose rows are full fours of elements.
// #include "shared/grid.wgsl"
// #include "shared/value_wide.wgsl"
// #include "shared/runs.wgsl"
// #include "shared/run_sum.wgsl"
// #include "shared/run_sums.wgsl"
