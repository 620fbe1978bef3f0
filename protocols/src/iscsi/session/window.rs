//! Which commands may come (section 4.2.2.1).
//!
//! ```text
//!        expected (ExpCmdSN)        last (MaxCmdSN) = expected + free slots - 1
//!   ──────────┬───────────────────────────┬──────────
//!    done, or │ next   later, kept until  │ outside: silently ignored
//!    under way│        it is their turn   │
//! ```
//!
//! **Invariant:** `last` never goes back: a command that takes a slot moves `expected` on by one.

use crate::iscsi::wire::number::CmdSn;

/// Whether it is the turn of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It is its turn.
    Next,
    /// Others have to come first.
    Later,
    /// It was done already, or nobody allowed it.
    Outside,
}

/// The commands of a session, by their numbers.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    expected: CmdSn,
    slots: u32,
    used: u32,
}

impl Window {
    /// `slots` commands may be under way; `first` comes first.
    pub fn new(first: CmdSn, slots: u32) -> Self {
        assert!(slots > 0, "a window without slots never opens");
        Self { expected: first, slots, used: 0 }
    }

    /// The command whose turn it is.
    pub fn expected(&self) -> CmdSn {
        self.expected
    }

    /// The last command that may come; the one before [`Window::expected`] if none may.
    pub fn last(&self) -> CmdSn {
        self.expected.plus((self.slots - self.used).wrapping_sub(1))
    }

    /// Whether no command may come.
    pub fn is_closed(&self) -> bool {
        self.used == self.slots
    }

    /// Whether it is the turn of command `number`.
    pub fn turn(&self, number: CmdSn) -> Turn {
        match number.since(self.expected) {
            ahead if ahead >= self.slots - self.used => Turn::Outside,
            0 => Turn::Next,
            _ => Turn::Later,
        }
    }

    /// The next command came and was done at once.
    pub fn pass(&mut self) {
        self.expected = self.expected.next();
    }

    /// The next command came and is under way.
    pub fn occupy(&mut self) {
        assert!(self.used < self.slots, "a command came through a closed window");
        self.used += 1;
        self.pass();
    }

    /// One that was under way is not any more.
    pub fn free(&mut self) {
        assert!(self.used > 0, "nothing was under way");
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_window_is_closed() {
        let mut window = Window::new(CmdSn::new(u32::MAX), 2);
        assert_eq!(window.last(), CmdSn::new(0));
        window.occupy();
        window.occupy();
        assert_eq!((window.expected(), window.last()), (CmdSn::new(1), CmdSn::new(0)));
        assert!(window.is_closed());
        assert_eq!(window.turn(CmdSn::new(1)), Turn::Outside);
        window.free();
        assert!(!window.is_closed());
        assert_eq!(window.turn(CmdSn::new(1)), Turn::Next);
        assert_eq!(window.turn(CmdSn::new(2)), Turn::Outside);
        assert_eq!(window.turn(CmdSn::new(0)), Turn::Outside);
    }

    proptest! {
        #[test]
        fn the_window_never_goes_back(first: u32, slots in 1u32..9, steps in prop::collection::vec(0u8..3, 0..99)) {
            let mut window = Window::new(CmdSn::new(first), slots);
            let mut under_way = 0;
            for step in steps {
                let before = window.last();
                match step {
                    0 if under_way < slots => {
                        prop_assert_eq!(window.turn(window.expected()), Turn::Next);
                        window.occupy();
                        under_way += 1;
                        prop_assert_eq!(window.last(), before);
                    }
                    1 if under_way > 0 => {
                        window.free();
                        under_way -= 1;
                        prop_assert_eq!(window.last(), before.next());
                    }
                    2 if under_way < slots => {
                        window.pass();
                        prop_assert_eq!(window.last(), before.next());
                    }
                    _ => {}
                }
                prop_assert_eq!(window.last().plus(1).since(window.expected()), slots - under_way);
            }
        }
    }
}
