//! The one source of chance in a world. Equal seeds give equal sequences on every machine.
//!
//! Every event draws from a sequence of its own, named by the world's seed, the moment and whom it happens to: what is left
//! out of a world does not change the chance of the rest.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that begins at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator that these numbers name.
    pub fn of(name: &[u64]) -> Self {
        let mix =
            |rng: Self, part: &u64| Self(Self(rng.0 ^ part).number().rotate_left(17) ^ part.wrapping_mul(0x9FB2_1C65));
        Self(name.iter().fold(Self(0x5EED), mix).number())
    }

    /// Uniform over all of `u64`.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// An index into something of `len` entries, which is not empty.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `from`.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.index(from.len())) }
    }

    /// Milliseconds in nanoseconds, most of them near `low`, some near `high`: the logarithm is uniform.
    pub fn delay_ms(&mut self, low: u64, high: u64) -> i64 {
        let span = (high / low.max(1)).max(1).ilog2() + 1;
        let top = (low.max(1) << self.below(u64::from(span) + 1)).min(high);
        (low + self.below(top.saturating_sub(low) + 1)) as i64 * 1_000_000
    }
}
