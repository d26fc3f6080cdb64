//! Sparse memory fine-tuning (Lin et al. 2025, "Continual learning via sparse memory finetuning", OpenReview LGo7U1m24L): new
//! facts are written only into slots that matter for them and for little else, so that what was learned before stays.
//!
//! Count how slots are used on a background set ([`SlotUsage`](super::SlotUsage), one run a batch) and on the new text, choose
//! slots with [`choose_slots`], feed the mask to a plan with [`Lookup::trainable`](super::Lookup::trainable), and freeze all
//! other parameters with a group whose learning rate factor is 0.

use super::usage::Usage;
use crate::error::{Error, Result};
use crate::types::Tensor;

/// Score of every slot: its share of the reads of `batch` times ln((B + 1) / (b + 1)), where b of the B background batches
/// read it.
///
/// # Errors
/// [`Error::Argument`] unless both are about equally many slots.
pub fn tf_idf(batch: &Usage, background: &Usage) -> Result<Vec<f64>> {
    if batch.slots() != background.slots() {
        let message = format!("{} slots, the background has {}", batch.slots(), background.slots());
        return Err(Error::argument("tf_idf", message));
    }
    let total: f64 = batch.hits.iter().map(|h| f64::from(*h)).sum::<f64>().max(1.0);
    let all = f64::from(background.total_batches) + 1.0;
    let score = |(hits, batches): (&f32, &f32)| f64::from(*hits) / total * libm::log(all / (f64::from(*batches) + 1.0));
    Ok(batch.hits.iter().zip(&background.batches).map(score).collect())
}

/// Mask u32 0/1 `[slots]` of the `count` slots with the largest [`tf_idf`] score; of equal ones those with the lower
/// numbers. Slots that `batch` did not read are never chosen, so there may be fewer.
///
/// # Errors
/// As [`tf_idf`].
pub fn choose_slots(batch: &Usage, background: &Usage, count: usize) -> Result<Tensor> {
    let scores = tf_idf(batch, background)?;
    let mut read: Vec<usize> = (0..scores.len()).filter(|i| batch.hits[*i] > 0.0).collect();
    read.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut mask = vec![0; scores.len()];
    read.into_iter().take(count).for_each(|i| mask[i] = 1);
    Tensor::u32([mask.len()], mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_slots_come_first() -> Result<()> {
        let usage = |hits: [f32; 5], batches: [f32; 5], total_batches| Usage {
            hits: hits.to_vec(),
            weights: hits.to_vec(),
            batches: batches.to_vec(),
            total_batches,
        };
        let background = usage([900.0, 10.0, 0.0, 0.0, 50.0], [9.0, 4.0, 0.0, 0.0, 9.0], 9);
        let batch = usage([60.0, 20.0, 20.0, 0.0, 0.0], [1.0; 5], 1);
        let scores = tf_idf(&batch, &background)?;
        assert_eq!(scores[0], 0.0, "read everywhere");
        assert!((scores[1] - 0.2 * 2f64.ln()).abs() < 1e-12 && (scores[2] - 0.2 * 10f64.ln()).abs() < 1e-12);
        assert_eq!(choose_slots(&batch, &background, 2)?.ints(), [0, 1, 1, 0, 0]);
        assert_eq!(choose_slots(&batch, &background, 99)?.ints(), [1, 1, 1, 0, 0], "only what was read");
        let other = Usage { hits: vec![0.0; 4], ..batch.clone() };
        assert!(tf_idf(&other, &background).is_err());
        Ok(())
    }
}
