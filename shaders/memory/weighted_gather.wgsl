// Weighted sums of rows of a table whose rows have any number of words.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
// #include "shared/words.wgsl"
// #include "shared/weighted_sums.wgsl"
