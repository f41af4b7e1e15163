//! The driver over a real GlusterFS: what holds for every share, and what of it is
//! GlusterFS's own.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/share_cases/mod.rs"]
#[allow(dead_code, reason = "not every case is GlusterFS's")]
mod share_cases;

use common::glusterfs::Gluster;
use share_cases::on_a_share;

/// One of its own, which a test may harm. For so long a client waits for a server that says
/// nothing, and keeps a thread of ours that nothing can end meanwhile.
fn own() -> Option<Gluster> {
    let gluster = Gluster::start()?;
    gluster.set("network.ping-timeout", "8");
    Some(gluster)
}

on_a_share! { Gluster::shared();
    mounting::a_share_that_is_mounted_already_is_used_and_left
    mounting::what_we_mounted_goes_with_us
    mounting::what_others_use_stays_mounted
    mounting::a_share_that_cannot_be_mounted
    mounting::a_share_that_can_be_mounted_later
    mounting::an_ordinary_user_hears_what_to_do
    mounting::what_else_is_mounted_there_is_not_written_to
    mounting::a_mount_that_is_taken_away
    mounting::where_shares_are_mounted
    writers::two_writers_of_one_volume
}

on_a_share! { own().as_ref();
    commands::commands_over_a_server_that_stands_still
    faults::a_server_that_goes_in_mid_restore
    faults::a_server_that_goes_in_mid_backup
    faults::a_short_outage_is_survived
    faults::a_deletion_without_a_server
    mounting::a_server_that_comes_later
    publishing::what_was_given_up_while_publishing_harms_nothing
    waiting::a_server_that_stands_still_in_mid_restore
    waiting::a_server_that_stands_still_in_mid_backup
    waiting::many_readers_cost_few_threads
    waiting::the_daemon_ends_while_its_server_stands_still
}
