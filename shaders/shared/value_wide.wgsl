// What sums are made of: four columns at once, widths in fours.
alias Value = vec4<f32>;
