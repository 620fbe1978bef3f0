//! The io_uring engine: the only module of the project that may use `unsafe`.
#![allow(unsafe_code)]

pub mod buffer;
