// What sums are made of.
alias Value = f32;
