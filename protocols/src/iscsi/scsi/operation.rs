//! What a task does.

#[derive(Debug)]
pub(super) enum Operation {}

impl Operation {
    pub(super) fn data_out(&self) -> usize {
        match *self {}
    }
    pub(super) fn data_in_limit(&self) -> usize {
        match *self {}
    }
}
