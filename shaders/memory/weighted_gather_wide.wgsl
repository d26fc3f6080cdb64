// Weighted sums of rows of a table whose rows have full fours of words.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
// #include "shared/words_wide.wgsl"
// #include "shared/weighted_sums.wgsl"
