//! The stretches of history between two moments. Pure.
//!
//! ```text
//!   trunk  ──────o────────●───────────▶         from = trunk at ●, to = head of b2
//!                 \
//!   b1             ●──────o────▶                windows: trunk (o, ●], b1 (0, o], b2 (0, head]
//!                          \
//!   b2                      ───────▶
//! ```
//!
//! Lines form a tree, and a moment is a place in it; what differs between two moments was written on the way from one to
//! the other. **Invariant:** a block reads from the same version at both moments if and only if it has no version in any
//! of these windows.

use crate::ids::Sequence;
use crate::index::written::SequenceWindow;
use crate::leaf::Layer;

/// What lies between two moments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Between {
    pub(super) windows: Vec<SequenceWindow>,
    /// Records in one of them were lost: what they wrote is not known.
    pub(super) lost: bool,
}

impl Between {
    /// The way between the moments that see these layers, the newest line first. They share the last one, the trunk.
    pub(super) fn of(from: &[Layer], to: &[Layer]) -> Option<Self> {
        let meets = |layer: &Layer| to.iter().position(|other| other.line == layer.line);
        let (mine, theirs) =
            from.iter().enumerate().find_map(|(mine, layer)| Some((mine, meets(layer)?)))?;
        let mut between = Self::default();
        for layer in from[..mine].iter().chain(&to[..theirs]) {
            between.add(layer, layer.above);
        }
        let (one, other) = (&from[mine], &to[theirs]);
        let (older, newer) = if one.newest <= other.newest { (one, other) } else { (other, one) };
        between.add(newer, older.newest);
        Some(between)
    }

    fn add(&mut self, layer: &Layer, above: Sequence) {
        let window = SequenceWindow { line: layer.line, above, up_to: layer.newest };
        if window.above < window.up_to {
            self.windows.push(window);
            self.lost |= layer.gap.is_some_and(|gap| gap > above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LineId;

    fn layers(layers: &[(u32, u64, Option<u64>)]) -> Vec<Layer> {
        let layer = |(line, newest, gap): &(u32, u64, Option<u64>)| Layer {
            line: LineId::new(*line),
            above: Sequence::default(),
            folded: false,
            newest: Sequence::new(*newest),
            gap: gap.map(Sequence::new),
        };
        layers.iter().map(layer).collect()
    }

    fn between(
        from: &[(u32, u64, Option<u64>)],
        to: &[(u32, u64, Option<u64>)],
    ) -> (Vec<(u32, u64, u64)>, bool) {
        let one = Between::of(&layers(from), &layers(to)).expect("they share a trunk");
        let back = Between::of(&layers(to), &layers(from)).expect("they share a trunk");
        let plain = |between: &Between| {
            let mut windows: Vec<_> = between
                .windows
                .iter()
                .map(|w| (w.line.number(), w.above.number(), w.up_to.number()))
                .collect();
            windows.sort_unstable();
            windows
        };
        assert_eq!((plain(&one), one.lost), (plain(&back), back.lost), "the way back is the same");
        (plain(&one), one.lost)
    }

    #[test]
    fn on_one_line_it_is_what_lies_between() {
        assert_eq!(between(&[(1, 5, None)], &[(1, 9, None)]), (vec![(1, 5, 9)], false));
        assert_eq!(between(&[(1, 5, None)], &[(1, 5, None)]), (vec![], false));
    }

    #[test]
    fn across_lines_it_goes_through_what_they_share() {
        let trunk = |at| (1, at, None);
        let branch = [(2, 7, None), trunk(4)];
        assert_eq!(between(&[trunk(6)], &branch), (vec![(1, 4, 6), (2, 0, 7)], false));
        assert_eq!(between(&[trunk(4)], &branch), (vec![(2, 0, 7)], false));
        assert_eq!(between(&[trunk(3)], &branch), (vec![(1, 3, 4), (2, 0, 7)], false));
        let nested = [(3, 2, None), (2, 5, None), trunk(4)];
        assert_eq!(between(&nested, &branch), (vec![(2, 5, 7), (3, 0, 2)], false));
        let cousin = [(4, 1, None), trunk(9)];
        let windows = vec![(1, 4, 9), (2, 0, 5), (3, 0, 2), (4, 0, 1)];
        assert_eq!(between(&nested, &cousin), (windows, false));
        let unwritten = [(5, 0, None), trunk(9)];
        assert_eq!(between(&unwritten, &[trunk(9)]), (vec![], false));
    }

    #[test]
    fn what_was_lost_in_between_counts_and_nothing_before() {
        assert!(between(&[(1, 5, None)], &[(1, 9, Some(6))]).1);
        assert!(!between(&[(1, 5, Some(5))], &[(1, 9, Some(5))]).1);
        let branch = [(2, 7, Some(1)), (1, 4, Some(3))];
        assert!(between(&[(1, 4, Some(3))], &branch).1);
        assert!(!between(&[(2, 3, Some(1)), (1, 4, Some(3))], &branch).1);
    }

    #[test]
    fn lines_of_different_machines_have_nothing_between_them() {
        assert_eq!(Between::of(&layers(&[(1, 5, None)]), &layers(&[(2, 5, None)])), None);
    }
}
