//! Chance that can be repeated.

/// A row of numbers that looks like chance, and is the same for the same seed: SplitMix64.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Begins.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number, which is below this.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }
}
