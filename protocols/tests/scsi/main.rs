//! SCSI commands against a model of the logical unit, and what the model does not have: identities, concurrency, aborts.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]
// The model is shared with a fuzz target, which uses other parts of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

mod atomic;
mod describing;
mod model;
mod random;
mod vast;
