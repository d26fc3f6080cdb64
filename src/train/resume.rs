//! Saving a trainer and going on from where it was, bit for bit.

use super::build::{COUNT, PROGRESS, slot_name};
use super::checkpoint::{Checkpoint, LoadOptions, OPTIMIZER};
use super::file;
use super::ranks::{Digest, shared};
use super::rows::{check_rules, rules};
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::nn::Shard;
use crate::types::{Data, Shape, Tensor, TensorType};
use std::collections::HashMap;
use std::ops::Range;

/// What a checkpoint says beside its tensors.
#[derive(Debug)]
struct Counters {
    runs: u32,
    steps: u64,
    seed: u64,
    done: u32,
    skipped: u32,
}

/// Kind of what the loss carries, among the trainer's tensors.
const CARRIED: &str = "carried";

/// Key of a metadata string.
fn key(name: &str) -> String {
    format!("wgrad.{name}")
}

/// Name of what the optimizer keeps for a parameter.
fn slot_of(slot: &str, param: &str) -> String {
    format!("{OPTIMIZER}{slot}.{param}")
}

/// A state of the trainer and the tensors of a file that it holds, or parts of them.
struct Stored {
    state: String,
    ty: TensorType,
    parts: Vec<Part>,
    /// Whether each rank has a part of it.
    carried: bool,
    /// Whether all ranks make the same steps with it: trainable parameters.
    same: bool,
}

/// Elements of a tensor, from `start` on, at a place in a state. Parts of one tensor follow each other in order.
struct Part {
    tensor: String,
    shape: Shape,
    start: usize,
    place: Range<usize>,
}

impl Trainer {
    /// Parameters, what the optimizer keeps for them, touches of rows, and what the loss carries.
    fn stored(&self) -> Result<Vec<Stored>> {
        let shards = self.design.params.shards()?;
        let flat = |shard: &Shard, state: String, name: &dyn Fn(&str) -> String| {
            let part = |s: &crate::nn::Segment| {
                let p = self.design.params.nth(s.param)?;
                let place = s.offset..s.offset + s.len;
                Some(Part { tensor: name(p.name()), shape: p.shape().clone(), start: s.start, place })
            };
            let parts = shard.segments.iter().filter_map(part).collect();
            Stored { state, ty: shard.ty(), parts, carried: false, same: false }
        };
        let of_params = |s: &Shard| Stored { same: s.group.is_some(), ..flat(s, s.state.clone(), &str::to_owned) };
        let mut all: Vec<Stored> = shards.iter().map(of_params).collect();
        let optimizer = &self.design.settings.optimizer;
        for slot in optimizer.slots() {
            let trained = shards.iter().filter(|s| s.group.is_some());
            all.extend(trained.map(|s| flat(s, slot_name(slot, s), &|name| slot_of(slot, name))));
        }
        for (t, table) in self.design.trained.iter().filter_map(|t| Some((t, t.counted(optimizer)?))) {
            for (shard, rows) in t.shards.iter().zip(&table.pieces) {
                let (tensor, shape) = (slot_of(COUNT, &table.name), [table.rows].into());
                let part = Part { tensor, shape, start: rows.start, place: 0..rows.len() };
                let ty = TensorType::u32([rows.len()]);
                all.push(Stored { state: slot_name(COUNT, shard), ty, parts: vec![part], carried: false, same: false });
            }
        }
        for (name, ty) in &self.design.carried {
            // In the file is what all ranks carry.
            let (shape, numel) = (shared(ty, self.ranks()).shape, ty.shape.numel());
            let part = Part { tensor: slot_of(CARRIED, name), shape, start: self.rank() * numel, place: 0..numel };
            all.push(Stored { state: name.clone(), ty: ty.clone(), parts: vec![part], carried: true, same: false });
        }
        Ok(all)
    }

    /// The trainer as a safetensors file: parameters by name, optimizer state as `optim.<slot>.<name>`, what the loss
    /// carries as `optim.carried.<name>`; counters, seed, config and the rule of tables that are updated by rows as
    /// metadata. Only between whole steps. The file does not depend on how tables are cut.
    ///
    /// # Errors
    /// [`Error::Argument`] between the micro-batches of a step; [`Error::Rank`] if one is gone; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub async fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let put = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        self.write(put).await?;
        Ok(bytes)
    }

    /// Writes [`to_bytes`](Self::to_bytes) to a file, state by state; an old file is replaced only when the new one is
    /// whole. Of [ranks](super::TrainerBuilder::ranks) that train together all call it, rank 0 writes, and the others learn
    /// whether the file is there. Before it takes its name, all compare their parameters.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails; else as [`to_bytes`](Self::to_bytes). On the other ranks [`Error::Rank`] if one of
    /// them fails; on all of them if the parameters of one are no longer those of rank 0, and the old file stays then.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        let carried = self.gather_carried().await?;
        let mut digest = Digest::default();
        let mut file = None;
        let mut done = if self.rank() == 0 {
            let written = self.save_with(path.as_ref(), &carried, &mut digest).await;
            written.map(|new| file = Some(new))
        } else {
            self.read_same(&mut digest).await
        };
        if self.ranks() > 1 {
            // Ranks that round differently on purpose have different parameters.
            let digest = if self.design.mixed { 0 } else { digest.value() };
            self.settle(
                done.map(|()| digest),
                "failed, so that there is no new checkpoint",
                "has other parameters than rank 0 by now, so that they no longer train the same; go on from the checkpoint before",
            )?;
            done = Ok(());
        }
        done = done.and_then(|()| file.map_or(Ok(()), file::NewFile::finish));
        self.settle(done.map(|()| 0), "could not write the checkpoint", "")
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn save_with(
        &self,
        path: &std::path::Path,
        carried: &[Tensor],
        digest: &mut Digest,
    ) -> Result<file::NewFile> {
        let mut file = file::NewFile::create(path)?;
        self.write_with(carried, digest, |part| file.write(part)).await?;
        Ok(file)
    }

    /// Writes the parameters that all ranks have into a digest.
    #[cfg(not(target_arch = "wasm32"))]
    async fn read_same(&self, digest: &mut Digest) -> Result<()> {
        for s in self.stored()?.iter().filter(|s| s.same) {
            digest.write(crate::nn::read(&self.store, &s.state, &s.ty).await?.data().bytes());
        }
        Ok(())
    }

    /// What the losses of all ranks carry.
    async fn gather_carried(&self) -> Result<Vec<Tensor>> {
        let mut all = Vec::with_capacity(self.design.carried.len());
        for (name, _) in &self.design.carried {
            all.push(self.gather(self.store.read(name).await?)?);
        }
        Ok(all)
    }

    async fn write(&self, put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.write_with(&self.gather_carried().await?, &mut Digest::default(), put).await
    }

    /// Hands over the bytes of the file part by part: beside what is carried only one state at a time is in host memory.
    /// The parameters that all ranks have go into a digest too.
    async fn write_with(
        &self,
        carried: &[Tensor],
        digest: &mut Digest,
        mut put: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if !self.runs.is_multiple_of(self.design.settings.micro) {
            let message = "some micro-batches of this step are still missing; save after the last one";
            return Err(Error::argument("save", message));
        }
        let stored = self.stored()?;
        let tensors = stored.iter().flat_map(|s| s.parts.iter().map(move |part| (s, part)));
        let tensors = tensors.filter(|(s, part)| s.carried || part.start == 0);
        let tensors = tensors.map(|(s, part)| (part.tensor.clone(), file::stored_as(s.ty.dtype), part.shape.clone()));
        put(&file::header(tensors.collect(), self.metadata().await?)?)?;
        for s in stored.iter().filter(|s| !s.carried) {
            let tensor = crate::nn::read(&self.store, &s.state, &s.ty).await?;
            if s.same && self.ranks() > 1 {
                digest.write(tensor.data().bytes());
            }
            for part in &s.parts {
                let Range { start, end } = part.place;
                put(tensor.data().bytes().get(4 * start..4 * end).unwrap_or_default())?;
            }
        }
        // They come last in the list too.
        carried.iter().try_for_each(|tensor| put(tensor.data().bytes()))
    }

    async fn metadata(&self) -> Result<HashMap<String, String>> {
        let progress = self.store.read(PROGRESS).await?;
        let count = |i: usize| progress.ints().get(i).copied().unwrap_or(0).to_string();
        let mut metadata = HashMap::from([
            (key("optimizer"), self.design.settings.optimizer.name().to_owned()),
            (key("runs"), self.runs.to_string()),
            (key("steps"), self.steps.to_string()),
            (key("seed"), self.seed.to_string()),
            (key("done"), count(0)),
            (key("skipped"), count(1)),
            (key("config"), self.design.config.clone()),
        ]);
        let rules = rules(&self.design.trained, &self.design.settings.optimizer);
        if !rules.is_empty() {
            let failed = |e| Error::checkpoint(None, format!("writing failed: {e}"));
            metadata.insert(key("rows"), serde_json::to_string(&rules).map_err(failed)?);
        }
        Ok(metadata)
    }

    /// Goes on from a checkpoint of the same model and optimizer. Everything is checked first: on an error nothing has
    /// changed. States are then read one after the other: only if the file cannot be read any more halfway, or the device
    /// fails, some have changed; load again.
    ///
    /// # Errors
    /// As [`resume`](Self::resume); [`Error::Checkpoint`] when they are not one whole safetensors file.
    pub fn from_bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.resume(&Checkpoint::from_bytes(bytes)?)
    }

    /// [`from_bytes`](Self::from_bytes) of a file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`resume`](Self::resume).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.resume(&Checkpoint::open(path)?)
    }

    /// [`from_bytes`](Self::from_bytes) of an opened checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is of another model, optimizer or rule of updates, or holds only parameters;
    /// [`Error::Io`] if it cannot be read any more; [`Error::Rank`] if ranks have loaded different files; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub fn resume(&mut self, file: &Checkpoint) -> Result<()> {
        let checked = self.check(file);
        let number = checked.as_ref().map(|(_, _, number)| *number).map_err(Clone::clone);
        self.settle(
            number,
            "could not load the checkpoint",
            "has loaded another checkpoint than rank 0; give all ranks the same file",
        )?;
        let (Counters { runs, steps, seed, done, skipped }, stored, _) = checked?;
        for s in &stored {
            self.store.set(&s.state, &restored(file, s)?)?;
        }
        self.store.set(PROGRESS, &Tensor::u32([2], vec![done, skipped])?)?;
        self.go_on(runs, steps, seed, skipped);
        Ok(())
    }

    /// What a checkpoint has for this trainer, and where several ranks load it a digest of what they must have in common.
    fn check(&self, file: &Checkpoint) -> Result<(Counters, Vec<Stored>, u64)> {
        let counters = self.counters(file)?;
        let optimizer = &self.design.settings.optimizer;
        check_rules(file.metadata(&key("rows")), &rules(&self.design.trained, optimizer), &self.design.params)?;
        let slots = optimizer.slots();
        let ours = |name: &str| {
            let kept = |slot: &str| name.strip_prefix(OPTIMIZER).and_then(|n| n.strip_prefix(slot)?.strip_prefix('.'));
            let param = slots.iter().find_map(|slot| kept(slot)).and_then(|n| self.design.params.get(n).ok());
            let mut counted = self.design.trained.iter().filter_map(|t| t.counted(optimizer));
            let count = kept(COUNT).is_some_and(|n| counted.any(|table| table.name == n));
            let carried = kept(CARRIED).is_some_and(|n| self.design.carried.iter().any(|(name, _)| name == n));
            count || carried || param.is_some_and(|p| p.is_trainable())
        };
        file.compare(&self.design.params, &LoadOptions::default(), ours)?;
        let theirs = file.metadata("wgrad.config").unwrap_or_default();
        if !self.design.config.is_empty() && !theirs.is_empty() && theirs != self.design.config {
            let message =
                format!("made for another model: {}; build the same one", difference(theirs, &self.design.config));
            return Err(Error::checkpoint(None, message));
        }
        let stored = self.stored()?;
        for (s, part) in stored.iter().flat_map(|s| s.parts.iter().map(move |part| (s, part))) {
            file.check(&part.tensor, &part.shape, s.ty.dtype)?;
        }
        let mut digest = Digest::default();
        if self.ranks() > 1 {
            digest.write(format!("{counters:?}").as_bytes());
            for s in stored.iter().filter(|s| !s.carried) {
                digest.write(restored(file, s)?.data().bytes());
            }
        }
        Ok((counters, stored, digest.value()))
    }

    fn counters(&self, file: &Checkpoint) -> Result<Counters> {
        let (own, theirs) = (self.design.settings.optimizer.name(), file.metadata(&key("optimizer")));
        if theirs != Some(own) {
            let found = theirs.map_or("no trainer's state".to_owned(), |t| format!("state of {t}"));
            let message = format!(
                "expected state of {own}, the file has {found}; use that optimizer, or load only the parameters"
            );
            return Err(Error::checkpoint(None, message));
        }
        let runs: u32 = number(file, "runs")?;
        let micro = self.design.settings.micro;
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

/// A state from the tensors of a file.
fn restored(file: &Checkpoint, s: &Stored) -> Result<Tensor> {
    let mut data = Tensor::zeros(&s.ty).into_data();
    for Part { tensor, start, place, .. } in &s.parts {
        let found = file.part(tensor, *start..*start + place.len(), s.ty.dtype)?;
        match (&mut data, found) {
            (Data::F32(all), Data::F32(part)) => put(all, place, &part),
            (Data::U32(all), Data::U32(part)) => put(all, place, &part),
            _ => {}
        }
    }
    Tensor::new(s.ty.shape.clone(), data)
}

fn put<E: Copy>(all: &mut [E], place: &Range<usize>, part: &[E]) {
    if let Some(all) = all.get_mut(place.clone()) {
        all.iter_mut().zip(part).for_each(|(a, p)| *a = *p);
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
