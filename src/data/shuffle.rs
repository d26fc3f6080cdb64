//! A random order without a list of it.

/// A permutation of `0..n`, drawn by a key: a Feistel network of six rounds on the next power of four, followed until it
/// lands below n (Black and Rogaway 2002). Any entry costs a few multiplications, and nothing is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shuffle {
    n: u64,
    half: u32,
    key: u64,
}

/// A number of which every bit depends on every bit of the argument (Steele et al. 2014, SplitMix64).
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Shuffle {
    pub fn new(n: u64, key: u64) -> Shuffle {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Shuffle { n, half: bits.div_ceil(2).max(1), key }
    }

    /// What comes at place `i`, which is below n.
    pub fn at(&self, i: u64) -> u64 {
        let mut x = i;
        loop {
            x = self.round_trip(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn round_trip(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for round in 0..6u64 {
            (left, right) = (right, left ^ (mix(right ^ mix(self.key ^ round)) & mask));
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::Shuffle;

    #[test]
    fn every_number_comes_once_in_another_order() {
        for n in [1, 2, 3, 7, 64, 65, 1000] {
            let shuffle = Shuffle::new(n, 5);
            let order: Vec<u64> = (0..n).map(|i| shuffle.at(i)).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "{n}");
            if n > 60 {
                assert_ne!(order, sorted);
                assert_ne!(order, (0..n).map(|i| Shuffle::new(n, 6).at(i)).collect::<Vec<_>>());
            }
        }
        assert!(Shuffle::new(u64::MAX, 1).at(12345) < u64::MAX);
    }
}
