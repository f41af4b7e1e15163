//! cinderfs: OpenStack Cinder's volume backups as files.
//!
//! The program is made of rooms, and calls go one way: `cli` wires them all; `fuse`
//! calls `tree`, which calls `image`, which calls `driver`, which calls `format`,
//! `codec` and `store`. `error`, `budget`, `secret`, `spool`, `task` and
//! `mountinfo` may be used by all. A test (`tests/layering.rs`) keeps it so.

pub mod budget;
pub mod cli;
pub mod codec;
pub mod config;
pub mod driver;
pub mod error;
pub mod format;
pub mod fuse;
pub mod image;
pub mod mountinfo;
pub mod secret;
pub mod spool;
pub mod store;
pub mod task;
pub mod tree;
