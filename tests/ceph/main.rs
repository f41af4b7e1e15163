//! Backups in a real Ceph cluster, through the real mount: what is there is shown, what is
//! shown is right, and what is wrong is said.

#[path = "../common/mod.rs"]
mod common;

mod cinder;
mod deleting;
mod faults;
mod layouts;
mod leftovers;
mod model;
mod rbd_chains;
mod rbd_source;
mod write_faults;
mod writing;
