//! Saving a trainer and going on from where it was, bit for bit.

use super::build::{COUNT, PROGRESS, slot_name};
use super::checkpoint::{self, Checkpoint, LoadOptions, OPTIMIZER};
use super::rows::{check_rules, rules};
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::types::Tensor;
use std::collections::{BTreeMap, HashMap};

/// What a checkpoint says beside its tensors.
struct Counters {
    runs: u32,
    steps: u64,
    seed: u64,
    done: u32,
    skipped: u32,
}

/// Key of a metadata string.
fn key(name: &str) -> String {
    format!("wgrad.{name}")
}

/// Name of what the optimizer keeps for a parameter.
fn slot_of(slot: &str, param: &str) -> String {
    format!("{OPTIMIZER}{slot}.{param}")
}

impl Trainer {
    /// The trainer as a safetensors file: parameters by name, optimizer state as `optim.<slot>.<name>`; counters, seed,
    /// config and the rule of tables that are updated by rows as metadata. Only between whole steps.
    pub async fn to_bytes(&self) -> Result<Vec<u8>> {
        if !self.runs.is_multiple_of(self.settings.micro) {
            let message = "some micro-batches of this step are still missing; save after the last one";
            return Err(Error::argument("save", message));
        }
        let mut tensors = BTreeMap::new();
        let params = self.read_params().await?;
        for (name, value) in params.values() {
            tensors.insert(name.to_owned(), value);
        }
        for slot in self.settings.optimizer.slots() {
            let kept =
                params.read_flat(&self.store, |shard| slot_name(slot, shard), |shard| shard.group.is_some()).await?;
            for ((_, values), p) in kept.into_iter().filter_map(|(i, v)| Some(((i, v), params.nth(i)?))) {
                tensors.insert(slot_of(slot, p.name()), Tensor::f32(p.shape().clone(), values)?);
            }
        }
        for t in &self.trained {
            if let Some(table) = t.counted(&self.settings.optimizer) {
                let counts = self.store.read(&slot_name(COUNT, &t.shard)).await?;
                tensors.insert(slot_of(COUNT, &table.name), counts);
            }
        }
        let progress = self.store.read(PROGRESS).await?;
        let count = |i: usize| progress.ints().get(i).copied().unwrap_or(0).to_string();
        let mut metadata = HashMap::from([
            (key("optimizer"), self.settings.optimizer.name().to_owned()),
            (key("runs"), self.runs.to_string()),
            (key("steps"), self.steps.to_string()),
            (key("seed"), self.seed.to_string()),
            (key("done"), count(0)),
            (key("skipped"), count(1)),
            (key("config"), self.config.clone()),
        ]);
        let rules = rules(&self.trained, &self.settings.optimizer);
        if !rules.is_empty() {
            let failed = |e| Error::checkpoint(None, format!("writing failed: {e}"));
            metadata.insert(key("rows"), serde_json::to_string(&rules).map_err(failed)?);
        }
        checkpoint::to_bytes(&tensors, metadata)
    }

    /// Goes on from a checkpoint of the same model and optimizer. Everything is checked first: on an error nothing has
    /// changed.
    pub fn from_bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.resume(&Checkpoint::from_bytes(bytes)?)
    }

    /// Writes [`to_bytes`](Self::to_bytes) to a file; an old file is replaced only when the new one is whole.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        checkpoint::write(path.as_ref(), &self.to_bytes().await?)
    }

    /// [`from_bytes`](Self::from_bytes) of a file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.resume(&Checkpoint::open(path)?)
    }

    /// [`from_bytes`](Self::from_bytes) of an opened checkpoint.
    pub fn resume(&mut self, file: &Checkpoint) -> Result<()> {
        let counters = self.counters(file)?;
        let optimizer = &self.settings.optimizer;
        check_rules(file.metadata(&key("rows")), &rules(&self.trained, optimizer), &self.params)?;
        let slots = optimizer.slots();
        let counted: Vec<_> = self.trained.iter().filter_map(|t| Some((t, t.counted(optimizer)?))).collect();
        let ours = |name: &str| {
            let kept = |slot: &str| name.strip_prefix(OPTIMIZER).and_then(|n| n.strip_prefix(slot)?.strip_prefix('.'));
            let param = slots.iter().find_map(|slot| kept(slot)).and_then(|n| self.params.get(n).ok());
            let count = kept(COUNT).is_some_and(|n| counted.iter().any(|(_, table)| table.name == n));
            count || param.is_some_and(|p| p.is_trainable())
        };
        file.compare(&self.params, &LoadOptions::default(), ours)?;
        let theirs = file.metadata("wgrad.config").unwrap_or_default();
        if !self.config.is_empty() && !theirs.is_empty() && theirs != self.config {
            let message = format!("made for another model: {}; build the same one", difference(theirs, &self.config));
            return Err(Error::checkpoint(None, message));
        }
        let mut states: Vec<(String, Tensor)> = Vec::new();
        for shard in self.params.shards() {
            let own = |name: &str| name.to_owned();
            states.push((shard.state.clone(), self.flat(file, &shard, own)?));
        }
        for t in &self.trained {
            for slot in slots {
                let flat = self.flat(file, &t.shard, |name| slot_of(slot, name))?;
                states.push((slot_name(slot, &t.shard), flat));
            }
        }
        for (t, table) in counted {
            let counts = file.integers(&slot_of(COUNT, &table.name), &[table.rows].into())?;
            states.push((slot_name(COUNT, &t.shard), counts));
        }
        states.push((PROGRESS.to_owned(), Tensor::u32([2], vec![counters.done, counters.skipped])?));
        for (name, tensor) in &states {
            self.store.set(name, tensor)?;
        }
        (self.runs, self.steps, self.seed) = (counters.runs, counters.steps, counters.seed);
        self.reported = false;
        Ok(())
    }

    /// A shard's flat buffer from the tensors of a file.
    fn flat(&self, file: &Checkpoint, shard: &crate::nn::Shard, name: impl Fn(&str) -> String) -> Result<Tensor> {
        let mut flat = vec![0.0; shard.len];
        for s in &shard.segments {
            let Some(p) = self.params.nth(s.param) else {
                continue;
            };
            let tensor = file.shaped(&name(p.name()), p.shape())?;
            flat[s.offset..s.offset + s.len].copy_from_slice(tensor.floats());
        }
        Tensor::f32([shard.len], flat)
    }

    fn counters(&self, file: &Checkpoint) -> Result<Counters> {
        let (own, theirs) = (self.settings.optimizer.name(), file.metadata(&key("optimizer")));
        if theirs != Some(own) {
            let found = theirs.map_or("no trainer's state".to_owned(), |t| format!("state of {t}"));
            let message = format!(
                "expected state of {own}, the file has {found}; use that optimizer, or load only the parameters"
            );
            return Err(Error::checkpoint(None, message));
        }
        let runs: u32 = number(file, "runs")?;
        let micro = self.settings.micro;
        if !runs.is_multiple_of(micro) {
            let message = format!("{runs} micro-batches are no whole steps of {micro}");
            return Err(Error::checkpoint(None, message));
        }
        Ok(Counters {
            runs,
            steps: number(file, "steps")?,
            seed: number(file, "seed")?,
            done: number(file, "done")?,
            skipped: number(file, "skipped")?,
        })
    }
}

/// A number of the metadata.
fn number<T: std::str::FromStr>(file: &Checkpoint, name: &str) -> Result<T> {
    let key = key(name);
    let text = file.metadata(&key).unwrap_or("nothing");
    text.parse().map_err(|_| {
        let message = format!("metadata {key}: expected a whole number, found {text}");
        Error::checkpoint(None, message)
    })
}

/// Where two configurations first differ, with a little of what stands before.
fn difference(theirs: &str, ours: &str) -> String {
    let same: usize = theirs.chars().zip(ours.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    // From the beginning of the entry to its end.
    let start = theirs[..same].rfind([',', '{', '(']).map_or(0, |i| i + 1);
    let entry = |text: &str| {
        let rest = &text[start..];
        let end = rest.find([',', '}', ')']).unwrap_or(rest.len());
        rest[..end].trim().to_owned()
    };
    format!("it has {}, this model {}", entry(theirs), entry(ours))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn the_first_difference_is_named() {
        let a = "Config { dim: 128, heads: 4, how: Exact { eps: 0.5 } }";
        assert_eq!(difference(a, &a.replace("128", "64")), "it has dim: 128, this model dim: 64");
        assert_eq!(difference(a, &a.replace("0.5", "1.0")), "it has eps: 0.5, this model eps: 1.0");
        assert_eq!(difference("", "ä"), "it has , this model ä");
        assert_eq!(difference("Äb", "Ä"), "it has Äb, this model Ä");
    }
}
