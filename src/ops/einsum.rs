//! Sums of products named by letters, built from permute, reshape, matmul and sum.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let a = graph.constant(Tensor::f32([2, 2], vec![1.0, 2.0, 3.0, 4.0])?);
//! let b = graph.constant(Tensor::f32([2, 2], vec![1.0, 0.0, 0.0, 10.0])?);
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", graph.einsum("ij,jk->ki", &[a, b]))])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("y")?.floats(), [1.0, 3.0, 20.0, 40.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Where};
use crate::graph::{Graph, Var};

/// A specification such as `bhid,bhjd->bhij`, checked.
#[derive(Debug, PartialEq)]
struct Spec {
    inputs: Vec<Vec<char>>,
    output: Vec<char>,
}

impl Spec {
    fn parse(text: &str) -> Result<Spec, String> {
        let Some((left, right)) = text.split_once("->") else {
            return Err("needs an explicit output: \"ij,jk->ik\"".to_owned());
        };
        let letters = |part: &str| -> Result<Vec<char>, String> {
            let letters: Vec<char> = part.chars().filter(|c| !c.is_whitespace()).collect();
            for (i, c) in letters.iter().enumerate() {
                if !c.is_ascii_alphabetic() {
                    return Err(format!("\"{c}\" is no letter; every dimension is one letter"));
                }
                if letters[..i].contains(c) {
                    return Err(format!("{c} stands twice in {}; diagonals are not done", part.trim()));
                }
            }
            Ok(letters)
        };
        let inputs = left.split(',').map(letters).collect::<Result<Vec<_>, _>>()?;
        let output = letters(right)?;
        match output.iter().find(|c| !inputs.iter().any(|i| i.contains(c))) {
            Some(c) => Err(format!("{c} of the output stands in no input")),
            None => Ok(Spec { inputs, output }),
        }
    }

    /// Checks the operands' dimensions.
    fn fits(&self, operands: &[Var<'_>]) -> Result<(), String> {
        let (want, got) = (self.inputs.len(), operands.len());
        if want != got || !(1..=2).contains(&got) {
            return Err(format!("names {want} operands, got {got}; one or two can be done"));
        }
        let mut extents: Vec<(char, usize)> = Vec::new();
        for (letters, operand) in self.inputs.iter().zip(operands) {
            let shape = operand.shape();
            if shape.len() != letters.len() {
                let letters: String = letters.iter().collect();
                return Err(format!("{letters} names {} dimensions of {shape}", letters.len()));
            }
            for (&c, &n) in letters.iter().zip(shape.iter()) {
                match extents.iter().find(|(known, _)| *known == c) {
                    Some((_, m)) if *m != n => {
                        return Err(format!("{c} is {m} in one operand and {n} in the other"));
                    }
                    _ => extents.push((c, n)),
                }
            }
        }
        Ok(())
    }
}

/// A variable whose dimensions carry letters.
struct Named<'g> {
    var: Var<'g>,
    letters: Vec<char>,
}

impl<'g> Named<'g> {
    /// Sums away every letter that `keep` refuses.
    #[track_caller]
    fn summed(mut self, keep: impl Fn(char) -> bool) -> Self {
        for axis in (0..self.letters.len()).rev() {
            if !keep(self.letters[axis]) {
                let mut shape = self.var.shape();
                if axis < shape.len() {
                    shape.0.remove(axis);
                }
                self.var = self.var.sum(axis).reshape(shape);
                self.letters.remove(axis);
            }
        }
        self
    }

    /// Dimensions in the order of `letters`, which are those it has.
    #[track_caller]
    fn ordered(&self, letters: &[char]) -> Var<'g> {
        let axes: Vec<usize> = letters.iter().filter_map(|c| self.letters.iter().position(|d| d == c)).collect();
        if axes.iter().enumerate().all(|(i, a)| i == *a) {
            return self.var;
        }
        self.var.permute(&axes)
    }

    fn extents(&self, letters: &[char]) -> Vec<usize> {
        let shape = self.var.shape();
        let all = self.letters.iter().zip(shape.iter());
        letters.iter().filter_map(|c| all.clone().find(|(d, _)| *d == c).map(|(_, n)| *n)).collect()
    }

    /// As a batch of matrices: dimensions merged group by group.
    #[track_caller]
    fn matrices(&self, batch: &[char], rows: &[char], cols: &[char]) -> Var<'g> {
        let order = [batch, rows, cols].concat();
        let mut shape = self.extents(batch);
        shape.push(self.extents(rows).iter().product());
        shape.push(self.extents(cols).iter().product());
        self.ordered(&order).reshape(shape)
    }
}

/// Product of two operands.
#[track_caller]
fn product<'g>(a: Named<'g>, b: Named<'g>, output: &[char]) -> Var<'g> {
    // What only one operand has and nobody asks for is summed before the product.
    let a_letters = a.letters.clone();
    let b_letters = b.letters.clone();
    let a = a.summed(|c| b_letters.contains(&c) || output.contains(&c));
    let b = b.summed(|c| a_letters.contains(&c) || output.contains(&c));
    let only =
        |list: &[char], f: &dyn Fn(&char) -> bool| -> Vec<char> { list.iter().copied().filter(|c| f(c)).collect() };
    let both = |c: &char| a.letters.contains(c) && b.letters.contains(c);
    let batch = only(output, &both);
    let depth = only(&a.letters, &|c| both(c) && !output.contains(c));
    let rows = only(output, &|c| a.letters.contains(c) && !both(c));
    let cols = only(output, &|c| b.letters.contains(c) && !both(c));
    // The output's own order, if one of the two products has it: then the result needs no permutation.
    let swapped = [&batch[..], &cols, &rows].concat() == output;
    let (a, b, rows, cols) = if swapped { (b, a, cols, rows) } else { (a, b, rows, cols) };
    let mut x = a.matrices(&batch, &rows, &depth);
    let mut y = b.matrices(&batch, &depth, &cols);
    if batch.len() > 4 {
        // A product has at most four batch dimensions.
        let merge = |v: Var<'g>| {
            let count: usize = a.extents(&batch).iter().product();
            v.reshape([count, v.dim(-2), v.dim(-1)])
        };
        (x, y) = (merge(x), merge(y));
    }
    let shape = [a.extents(&batch), a.extents(&rows), b.extents(&cols)].concat();
    let result = Named { var: x.matmul(y).reshape(shape), letters: [batch, rows, cols].concat() };
    result.ordered(output)
}

impl Graph {
    /// Sums of products in the notation of Einstein: every dimension is a letter, letters missing in the output are
    /// summed. One or two operands; two become one matrix product.
    ///
    /// `graph.einsum("bhid,bhjd->bhij", &[q, k])` are attention scores. A letter twice in one operand (a diagonal), a
    /// missing `->`, and extents that differ are errors of the graph.
    #[track_caller]
    pub fn einsum<'g>(&'g self, spec: &str, operands: &[Var<'g>]) -> Var<'g> {
        let _at = self.at(Where::caller());
        let checked = match self.error() {
            Some(_) => Err(String::new()),
            None => Spec::parse(spec).and_then(|s| s.fits(operands).map(|()| s)),
        };
        let named = |s: &Spec| -> Vec<Named<'g>> {
            let pairs = operands.iter().zip(&s.inputs);
            pairs.map(|(var, letters)| Named { var: *var, letters: letters.clone() }).collect()
        };
        match checked {
            Err(message) => {
                // Keeps the first error, and gives a variable that stands in.
                self.fail(Error::argument(format!("einsum \"{spec}\""), message));
                self.full([], 0.0)
            }
            Ok(s) => {
                let mut all = named(&s).into_iter();
                match (all.next(), all.next()) {
                    (Some(a), Some(b)) => product(a, b, &s.output),
                    (Some(a), None) => a.summed(|c| s.output.contains(&c)).ordered(&s.output),
                    _ => self.full([], 0.0),
                }
            }
        }
    }
}

/// Samples for the generic checks: against compositions of elementwise products and sums.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let two: [(&str, &[usize], &[usize]); 13] = [
        ("bhid,bhjd->bhij", &[2, 3, 5, 4], &[2, 3, 7, 4]),
        ("bhij,bhjd->bhid", &[2, 3, 5, 7], &[2, 3, 7, 4]),
        ("bnd,de->bne", &[2, 5, 4], &[4, 3]),
        ("bhnd,bhne->bhde", &[2, 3, 5, 4], &[2, 3, 5, 6]),
        ("bd,bd->b", &[5, 7], &[5, 7]),
        ("i,j->ji", &[5], &[3]),
        ("ij,kj->ki", &[5, 4], &[3, 4]),
        ("bnhd,phkd->pbnhk", &[2, 5, 3, 4], &[2, 3, 6, 4]),
        ("ab,cd->", &[2, 3], &[4, 5]),
        ("abc,bd->dca", &[2, 3, 4], &[3, 5]),
        ("abcdef,abcdeg->abcdefg", &[2, 1, 2, 3, 2, 3], &[2, 1, 2, 3, 2, 4]),
        ("ij,jk->ik", &[3, 0], &[0, 2]),
        ("ij,->ji", &[3, 2], &[]),
    ];
    let mut all: Vec<Sample> = two
        .into_iter()
        .map(|(spec, a, b)| {
            Sample::new(format!("einsum {spec}"), [a, b], move |g, x| vec![g.einsum(spec, &[x[0], x[1]])])
        })
        .collect();
    all.push(Sample::new("einsum of one operand", [&[3, 4, 5]], |g, x| {
        let x = x[0];
        vec![
            g.einsum("abc->cab", &[x]),
            g.einsum("abc->ca", &[x]),
            g.einsum("abc->", &[x]),
            g.einsum("abc -> abc", &[x]),
        ]
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TensorType;
    use crate::{Device, Feed, Tensor};

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 23) as f32 - 11.0).collect()
    }

    /// Adds products over all letters, one by one.
    fn slow(spec: &Spec, shapes: &[Vec<usize>], data: &[Vec<f32>]) -> Vec<f32> {
        let mut letters: Vec<(char, usize)> = Vec::new();
        for (l, s) in spec.inputs.iter().zip(shapes) {
            for (&c, &n) in l.iter().zip(s) {
                if !letters.iter().any(|(d, _)| *d == c) {
                    letters.push((c, n));
                }
            }
        }
        let extent = |c: char| letters.iter().find(|l| l.0 == c).map_or(1, |l| l.1);
        let at = |list: &[char], index: &[usize]| {
            list.iter().fold(0, |at, &c| {
                let i = letters.iter().position(|l| l.0 == c).unwrap_or(0);
                at * extent(c) + index[i]
            })
        };
        let mut out = vec![0.0; spec.output.iter().map(|&c| extent(c)).product()];
        for n in 0..letters.iter().map(|l| l.1).product() {
            let mut rest = n;
            let index: Vec<usize> = letters
                .iter()
                .map(|l| {
                    let i = rest % l.1;
                    rest /= l.1;
                    i
                })
                .collect();
            let factors = spec.inputs.iter().zip(data).map(|(l, d)| d[at(l, &index)]);
            out[at(&spec.output, &index)] += factors.product::<f32>();
        }
        out
    }

    #[test]
    fn equals_the_definition() {
        let cases: [(&str, &[&[usize]]); 9] = [
            ("bhid,bhjd->bhij", &[&[2, 3, 5, 4], &[2, 3, 7, 4]]),
            ("bnhd,phkd->pbnhk", &[&[2, 5, 3, 4], &[2, 3, 6, 4]]),
            ("abc,bd->dca", &[&[2, 3, 4], &[3, 5]]),
            ("ij,kj->ki", &[&[5, 4], &[3, 4]]),
            ("ab,cd->", &[&[2, 3], &[4, 5]]),
            ("ij,->ji", &[&[3, 2], &[]]),
            ("i,j->ji", &[&[5], &[3]]),
            ("abc->ca", &[&[2, 3, 4]]),
            ("abcdef,abcdeg->abcgdef", &[&[2, 1, 2, 3, 2, 3], &[2, 1, 2, 3, 2, 4]]),
        ];
        for (text, shapes) in cases {
            let spec = Spec::parse(text).unwrap();
            let shapes: Vec<Vec<usize>> = shapes.iter().map(|s| s.to_vec()).collect();
            let data: Vec<Vec<f32>> = shapes.iter().map(|s| values(s.iter().product())).collect();
            let graph = Graph::new();
            let names = ["a", "b"];
            let vars: Vec<Var<'_>> =
                shapes.iter().zip(names).map(|(s, n)| graph.input(n, TensorType::f32(s.clone()))).collect();
            let y = graph.einsum(text, &vars);
            let plan = Device::cpu().compile_blocking(&graph, &[("y", y)]).unwrap();
            let tensors: Vec<Tensor> =
                shapes.iter().zip(&data).map(|(s, d)| Tensor::f32(s.clone(), d.clone()).unwrap()).collect();
            let mut feed = Feed::new();
            for (name, tensor) in names.iter().zip(&tensors) {
                feed = feed.input(name, tensor);
            }
            plan.run(&feed).unwrap();
            let got = plan.read_blocking("y").unwrap();
            assert_eq!(got.floats(), slow(&spec, &shapes, &data), "{text}");
        }
    }

    #[test]
    fn bad_specifications_are_errors() {
        let bad: [(&str, &[&[usize]]); 9] = [
            ("ij,jk", &[&[2, 3], &[3, 4]]),
            ("ii->i", &[&[2, 2]]),
            ("ij->ijk", &[&[2, 3]]),
            ("ij,jk->ik", &[&[2, 3], &[4, 4]]),
            ("ij,jk->ik", &[&[2, 3]]),
            ("ijk->ik", &[&[2, 3]]),
            ("i...->i", &[&[2, 3]]),
            ("i,i,i->i", &[&[2], &[2], &[2]]),
            ("->", &[]),
        ];
        for (text, shapes) in bad {
            let graph = Graph::new();
            let vars: Vec<Var<'_>> = shapes.iter().map(|s| graph.full(*s, 1.0)).collect();
            graph.einsum(text, &vars).exp();
            let error = graph.error().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("einsum") && error.contains("einsum.rs"), "{text}: {error}");
        }
    }
}
