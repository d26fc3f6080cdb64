//! All mutants in one program: each changed place asks `crate::mutant(id)` which of its texts holds.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::list::{Genre, Mutant};

/// What the crate's root gains: the mutant that this process runs, or a file that takes those that it reached.
pub const ROOT: &str = r#"
#[doc(hidden)]
pub fn mutant(id: usize) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    static CHOSEN: OnceLock<usize> = OnceLock::new();
    static REACHED: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
    let chosen = *CHOSEN.get_or_init(|| std::env::var("MUTANT").ok().and_then(|id| id.parse().ok()).unwrap_or(0));
    if chosen == 4096 && !REACHED[id].load(Ordering::Relaxed) && !REACHED[id].swap(true, Ordering::Relaxed) {
        use std::io::Write;
        let path = std::env::var("MUTANTS_REACHED").expect("a file for what is reached");
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("that file");
        file.write_all(format!("{id}\n").as_bytes()).expect("a line");
    }
    chosen == id
}
"#;

/// A place of the source that some mutants change.
struct Site {
    range: Range<usize>,
    kind: Kind,
    /// Id and text of each.
    mutants: Vec<(usize, String)>,
}

#[derive(Clone, PartialEq)]
enum Kind {
    /// Before a function's first statement.
    Body,
    Binary {
        left: Range<usize>,
        right: Range<usize>,
    },
    Unary {
        operand: Range<usize>,
    },
    /// A match arm's pattern.
    Pattern,
    Guard,
}

/// The text of a file with the mutants in it, and those that have no place in it.
pub fn file(text: &str, mutants: &[&Mutant]) -> Result<(String, Vec<usize>)> {
    let parsed = syn::parse_file(text).context("cannot parse")?;
    let mut places = Places::default();
    places.visit_file(&parsed);
    let mut lines = vec![0];
    lines.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    let mut sites: Vec<Site> = Vec::new();
    let mut left_out = Vec::new();
    for mutant in mutants {
        let [start, end] = mutant.span.map(|[line, column]| offset(text, &lines, line, column));
        let place = match mutant.genre {
            Genre::FnValue => Some((start..end, Kind::Body)),
            genre => places.found.get(&(start, genre)).cloned(),
        };
        let Some((range, kind)) = place else {
            left_out.push(mutant.id);
            continue;
        };
        let change = (mutant.id, mutant.replacement.clone());
        match sites.iter_mut().find(|site| site.range == range && site.kind == kind) {
            Some(site) => site.mutants.push(change),
            None => sites.push(Site { range, kind, mutants: vec![change] }),
        }
    }
    // Outer places before those inside them.
    sites.sort_by_key(|site| (site.range.start, std::cmp::Reverse(site.range.end), site.kind != Kind::Body));
    Ok((render(text, 0..text.len(), &sites), left_out))
}

/// Where each mutant that is no function's body begins, by the byte that cargo-mutants names.
#[derive(Default)]
struct Places {
    found: HashMap<(usize, Genre), (Range<usize>, Kind)>,
}

impl Visit<'_> for Places {
    fn visit_expr_binary(&mut self, e: &syn::ExprBinary) {
        let (left, right) = (e.left.span().byte_range(), e.right.span().byte_range());
        // `if a && let Some(b) = c` cannot stand in parentheses.
        if !holds_let(&e.left) && !holds_let(&e.right) {
            let place = (left.start..right.end, Kind::Binary { left, right });
            self.found.insert((e.op.span().byte_range().start, Genre::BinaryOperator), place);
        }
        visit::visit_expr_binary(self, e);
    }

    fn visit_expr_unary(&mut self, e: &syn::ExprUnary) {
        let (range, operand) = (e.span().byte_range(), e.expr.span().byte_range());
        self.found.insert((range.start, Genre::UnaryOperator), (range, Kind::Unary { operand }));
        visit::visit_expr_unary(self, e);
    }

    fn visit_arm(&mut self, arm: &syn::Arm) {
        let start = arm.span().byte_range().start;
        self.found.insert((start, Genre::MatchArm), (arm.pat.span().byte_range(), Kind::Pattern));
        if let Some((_, guard)) = &arm.guard {
            let range = guard.span().byte_range();
            self.found.insert((range.start, Genre::MatchArmGuard), (range, Kind::Guard));
        }
        visit::visit_arm(self, arm);
    }
}

fn holds_let(e: &syn::Expr) -> bool {
    match e {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(e) => holds_let(&e.left) || holds_let(&e.right),
        _ => false,
    }
}

/// The byte at a line and column, both counted from 1, columns in characters.
fn offset(text: &str, lines: &[usize], line: usize, column: usize) -> usize {
    let start = lines[line - 1];
    let inside = text[start..].char_indices().nth(column - 1).map_or(text.len() - start, |(at, _)| at);
    start + inside
}

/// The text of a range. `sites` are in order, those around others first.
fn render(text: &str, range: Range<usize>, sites: &[Site]) -> String {
    let mut out = String::new();
    let mut at = range.start;
    for (i, site) in sites.iter().enumerate() {
        let inside = site.range.start >= at && site.range.end <= range.end && !site.range.is_empty();
        if !inside {
            continue;
        }
        out.push_str(&text[at..site.range.start]);
        at = site.range.end;
        let part = |range: &Range<usize>| render(text, range.clone(), &sites[i + 1..]);
        let ids: Vec<String> = site.mutants.iter().map(|(id, _)| id.to_string()).collect();
        let _ = write!(out, "/*<{}*/", ids.join(","));
        out.push_str(&change(site, part));
        out.push_str("/*>*/");
    }
    out.push_str(&text[at..range.end]);
    out
}

/// One place with its mutants.
fn change(site: &Site, part: impl Fn(&Range<usize>) -> String) -> String {
    let original = part(&site.range);
    let mut out = String::new();
    let mut choose = |mutated: &dyn Fn(&str) -> String| {
        for (id, replacement) in &site.mutants {
            let _ = write!(out, "if crate::mutant({id}) {{ {} }} else ", mutated(replacement));
        }
    };
    match &site.kind {
        Kind::Body => {
            let returns =
                site.mutants.iter().map(|(id, value)| format!("if crate::mutant({id}) {{ return {value}; }} "));
            return returns.chain([original]).collect();
        }
        Kind::Pattern => {
            let none = site.mutants.iter().map(|(id, _)| format!("!crate::mutant({id})")).collect::<Vec<_>>();
            return format!("{original} if {}", none.join(" && "));
        }
        Kind::Binary { left, right } => choose(&|op| format!("{} {op} {}", part(left), part(right))),
        Kind::Unary { operand } => choose(&|_| part(operand)),
        Kind::Guard => choose(&str::to_owned),
    }
    format!("({out}{{ {original} }})")
}

/// The innermost place around a byte of a rendered file: the ids of its mutants.
pub fn around(rendered: &str, byte: usize) -> Vec<usize> {
    let mut open: Vec<&str> = Vec::new();
    let mut at = 0;
    while let Some(found) = rendered[at..byte].find("/*").map(|found| at + found) {
        let mark = &rendered[found + 2..];
        at = found + 2;
        if let Some(ids) = mark.strip_prefix('<') {
            open.push(ids.split("*/").next().unwrap_or_default());
        } else if mark.starts_with(">*/") {
            open.pop();
        }
    }
    open.last().into_iter().flat_map(|ids| ids.split(',')).filter_map(|id| id.parse().ok()).collect()
}
