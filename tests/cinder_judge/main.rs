//! What a real Cinder says of our backups, and we of its: each writes, the other restores,
//! builds on it and deletes it. Everything of ours goes through the real mount.

#[path = "../common/mod.rs"]
mod common;

mod building;
mod case;
mod deleting;
mod glusterfs;
mod image;
mod reading;
mod recovering;
mod swift;
mod writing;
mod zeros;
