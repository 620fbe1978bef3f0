//! The target's decisions, without I/O.
//!
//! ```text
//!   login       stages, names, CHAP (chap), keys (negotiate) ─▶ terms
//!   full        the session that follows: commands in their order (window), their data
//!               (collection), task management, text, pings and logout
//!   text        text in several PDUs
//!   batch       what is sent, with its digests
//! ```

pub mod batch;
pub mod chap;
pub mod collection;
pub mod full;
pub mod login;
pub mod negotiate;
pub mod terms;
pub mod text;
pub mod window;
