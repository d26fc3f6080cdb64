//! Programs as text: one operation a line. Any list of lines is a valid program, so that lines and numbers may be cut
//! away one by one.
//!
//! `softmax 3 0 2 : 7 1 0 4` is an operation on the values of earlier lines (or the nearest of the right kind before
//! them), and four dice that choose its variant, axes and sizes.

use crate::ops::{OPS, Op};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One operation.
#[derive(Clone, Copy)]
pub struct Line {
    pub op: &'static Op,
    pub args: [usize; 3],
    pub dice: [u32; 4],
}

/// A computation, and the seed of its inputs.
#[derive(Clone)]
pub struct Program {
    pub seed: u64,
    pub lines: Vec<Line>,
}

impl Program {
    /// A random program.
    pub fn random(seed: u64) -> Program {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let total: u32 = OPS.iter().map(|op| op.weight).sum();
        let mut lines: Vec<Line> = Vec::new();
        let mut push = |name: &str, rng: &mut ChaCha8Rng| {
            let n = lines.len();
            // Often a late value, so that chains grow; often an early one, so that values fan out.
            let mut late = || {
                let from = if rng.random() { n.saturating_sub(4) } else { 0 };
                rng.random_range(from..n.max(1))
            };
            let args = [late(), late(), late()];
            lines.push(Line { op: find(name), args, dice: std::array::from_fn(|_| rng.random_range(0..840)) });
        };
        for name in ["input", "exact", "ints", "state", "state"] {
            (0..rng.random_range(1..3)).for_each(|_| push(name, &mut rng));
        }
        if rng.random_range(0..3) == 0 {
            push("gate", &mut rng);
        }
        for _ in 0..rng.random_range(3..24) {
            let mut at = rng.random_range(0..total);
            for op in OPS {
                if at < op.weight {
                    push(op.name, &mut rng);
                    break;
                }
                at -= op.weight;
            }
        }
        for name in ["loss", "loss", "loss", "output", "output", "output", "output", "assign", "assign", "assign"] {
            push(name, &mut rng);
        }
        Program { seed, lines }
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Program, String> {
        let mut program = Program { seed: 0, lines: Vec::new() };
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            let bad = |e| format!("{line}: {e}");
            let mut words = line.split_whitespace().filter(|w| *w != ":");
            let name = words.next().unwrap_or_default();
            let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|e| bad(e.to_string()))?;
            match (name, numbers.as_slice()) {
                ("seed", [seed]) => program.seed = *seed,
                (_, [a, b, c, dice @ ..]) if dice.len() == 4 && OPS.iter().any(|op| op.name == name) => {
                    let args = [*a as usize, *b as usize, *c as usize];
                    let dice = std::array::from_fn(|i| dice[i] as u32);
                    program.lines.push(Line { op: find(name), args, dice });
                }
                _ => return Err(bad("no such line".to_owned())),
            }
        }
        Ok(program)
    }

    /// Without line `at`: what used it takes its first argument.
    fn without(&self, at: usize) -> Program {
        let instead = self.lines[at].args[0];
        let mut smaller = self.clone();
        smaller.lines.remove(at);
        for line in &mut smaller.lines[at..] {
            for arg in &mut line.args {
                let kept = if *arg == at { instead } else { *arg };
                *arg = if kept > at { kept - 1 } else { kept };
            }
        }
        smaller
    }

    /// Simpler programs, the simplest first.
    fn simpler(&self) -> Vec<Program> {
        let mut all: Vec<Program> = (0..self.lines.len()).rev().map(|i| self.without(i)).collect();
        for (i, line) in self.lines.iter().enumerate() {
            let mut change = |f: &dyn Fn(&mut Line)| {
                let mut next = self.clone();
                f(&mut next.lines[i]);
                all.push(next);
            };
            for (d, &die) in line.dice.iter().enumerate() {
                for value in [0, 1, die / 2, die.saturating_sub(1)] {
                    if value < die {
                        change(&|l| l.dice[d] = value);
                    }
                }
            }
            for (a, &arg) in line.args.iter().enumerate() {
                if arg > 0 {
                    change(&|l| l.args[a] = 0);
                }
            }
        }
        all
    }

    /// The smallest program found that still fails, within the given time.
    pub fn shrink(self, limit: std::time::Duration, fails: impl Fn(&Program) -> bool) -> Program {
        let start = std::time::Instant::now();
        let mut best = self;
        // Whole parts first.
        let mut part = best.lines.len() / 2;
        while part > 1 {
            let mut at = 0;
            while at < best.lines.len() && start.elapsed() < limit {
                let end = (at + part).min(best.lines.len());
                let next = (at..end).rev().fold(best.clone(), |p, i| p.without(i));
                if fails(&next) { best = next } else { at += part }
            }
            part /= 2;
        }
        'again: while start.elapsed() < limit {
            for next in best.simpler() {
                if start.elapsed() < limit && fails(&next) {
                    best = next;
                    continue 'again;
                }
            }
            break;
        }
        best
    }
}

fn find(name: &str) -> &'static Op {
    OPS.iter().find(|op| op.name == name).unwrap_or(&OPS[0])
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        for Line { op, args: [a, b, c], dice: [p, q, r, s] } in &self.lines {
            writeln!(f, "{} {a} {b} {c} : {p} {q} {r} {s}", op.name)?;
        }
        Ok(())
    }
}
