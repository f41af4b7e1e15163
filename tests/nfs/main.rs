//! The driver over the kernel's client of NFS and real servers, and what happens when those
//! are gone. It runs in a virtual machine, for the kernel of this one may have no client.

mod cases;
mod cinder;
#[path = "../common/mod.rs"]
mod common;
mod guide;
mod own;
mod servers;
#[path = "../common/share_cases/mod.rs"]
#[allow(dead_code, reason = "not every case is NFS's")]
mod share_cases;

use std::time::Duration;

#[test]
fn in_a_virtual_machine() {
    common::machine::run_ignored("", Duration::from_secs(2400));
}
