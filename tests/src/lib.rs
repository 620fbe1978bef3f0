//! What several test programs share: the simulation of a whole store with faults, and the harness around the binary.

pub mod churn;
pub mod harness;
pub mod simulation;
pub mod world;
