//! The target's decisions, without I/O.
//!
//! ```text
//!   login       stages, names, CHAP (chap), keys (negotiate) ─▶ terms
//!   text        text in several PDUs
//! ```

pub mod chap;
pub mod login;
pub mod negotiate;
pub mod terms;
pub mod text;
