//! The first simulation: one seed drives a store through accepts, marks, branch writes and power cuts, against a model
//! that holds every block of every point.
//!
//! ```text
//!   seed ─▶ life: open, resume the stream, verify ─▶ random steps ─▶ power cut (at any flush) ─▶ next life
//!                                                       │
//!   model: what the source has, what was acknowledged, what every point must read as
//! ```
//!
//! The store is the production code over files that tear, reorder and forget, an index that forgets, a clock that
//! follows the seed, and an executor that follows the seed. The same seed gives the same log, line by line.

mod aborting;
mod branching;
mod damage;
mod differences;
mod folding;
mod growing;
mod indexing;
mod instants;
mod keys;
mod life;
mod model;
mod promoting;
mod scrubbing;
mod sending;
mod standing;
mod thinning;
mod verifying;

use crate::world::World;
use landfall_disks::faults::Seed;

/// Lives of the store in one simulation.
const LIVES: u64 = 4;

/// Runs the simulation of `seed`; gives its log. Panics where the store breaks a promise.
pub fn simulate(seed: u64) -> Vec<String> {
    let mut random = Seed::new(seed);
    let mut world = World::new(&mut random);
    let mut model = model::Model::new(&mut random);
    for number in 0..=LIVES {
        let last = number == LIVES;
        world = life::live(world, &mut model, &mut random, last);
    }
    model.into_log()
}
