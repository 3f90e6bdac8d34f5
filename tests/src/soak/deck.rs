//! Chance that leaves nothing out.

use crate::random::Random;

/// Cards that are drawn one after the other, in another order each time through: so each kind of them is
/// drawn as often as it should be, and soon.
#[derive(Debug)]
pub(super) struct Deck<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    /// So many cards of each kind.
    pub(super) fn new(kinds: &[(T, usize)]) -> Deck<T> {
        let all = kinds.iter().flat_map(|(card, times)| std::iter::repeat_n(*card, *times));
        Deck { all: all.collect(), left: Vec::new() }
    }

    /// The next card.
    pub(super) fn draw(&mut self, random: &mut Random) -> T {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        let place = random.below(self.left.len());
        self.left.swap_remove(place)
    }
}
