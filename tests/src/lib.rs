//! What several test programs share: the simulation of a whole store with faults, the harness around the
//! binary, and what writes images.

pub mod churn;
pub mod harness;
pub mod simulation;
pub mod standby;
pub mod web;
pub mod world;
pub mod writable;
