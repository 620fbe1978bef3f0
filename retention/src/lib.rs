//! landfall.
