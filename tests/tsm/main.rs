//! Backups in IBM Storage Protect, through the real mount and an emulator of its client: what
//! is there is shown, what is written is there, and whatever goes wrong is said, harms
//! nothing, and hangs nobody.
//!
//! The real client cannot be had for tests. `tests/tsm-conformance.sh` asks one.

#[path = "../common/mod.rs"]
mod common;

mod catalog;
mod conformance;
mod deleting;
mod ending;
mod images;
mod listing;
mod model;
mod reading;
mod writing;
