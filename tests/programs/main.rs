//! Every program that people back up and restore with, on a real mount. Each must make
//! exactly one backup, which reads back equal, has the right name and time, and is what
//! Cinder would have written.

#[path = "../common/mod.rs"]
mod common;

mod backup;
mod copying;
mod disks;
mod settings;
mod streams;
