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

const LONGEST: Duration = Duration::from_secs(2400);

/// About half of the time that all of it takes: a failure there is told without the rest.
const HALF: [&str; 4] = [
    "cases::cinders_version",
    "cases::ganesha",
    "cases::soft",
    "cases::two_machines",
];

#[test]
fn half_of_it_in_a_virtual_machine() {
    common::machine::run_ignored(&HALF, LONGEST);
}

#[test]
fn the_others_in_a_virtual_machine() {
    let others = HALF.map(|room| format!("--skip={room}"));
    common::machine::run_ignored(&others, LONGEST);
}
