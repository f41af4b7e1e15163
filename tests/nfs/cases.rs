//! What holds for every share, over the kernel's client: with the version that Cinder looks
//! for first, and what a server does to its clients with the other one, too.

use crate::common::nfs::{Kind, Nfs};
use crate::share_cases::on_a_share;

/// Of the version 4.2.
mod cinders_version {
    use super::*;

    on_a_share! { in the machine, Nfs::start(Kind::Kernel);
        mounting::a_share_that_is_mounted_already_is_used_and_left
        mounting::what_we_mounted_goes_with_us
        mounting::what_others_use_stays_mounted
        mounting::a_share_that_cannot_be_mounted
        mounting::a_share_that_can_be_mounted_later
        mounting::an_ordinary_user_hears_what_to_do
        mounting::what_else_is_mounted_there_is_not_written_to
        mounting::a_mount_that_is_taken_away
        mounting::where_shares_are_mounted
        mounting::a_server_that_comes_later
        faults::a_server_that_goes_in_mid_restore
        faults::a_server_that_goes_in_mid_backup
        faults::a_short_outage_is_survived
        faults::a_deletion_without_a_server
        waiting::many_readers_cost_few_threads
    }
}

/// It can stand still, while its machine goes on.
mod ganesha {
    use super::*;

    on_a_share! { in the machine, Nfs::start(Kind::Ganesha);
        commands::commands_over_a_server_that_stands_still
        publishing::what_was_given_up_while_publishing_harms_nothing
        waiting::a_server_that_stands_still_in_mid_restore
        waiting::locks_do_not_hold_the_end_of_the_daemon
        waiting::a_server_that_stands_still_in_mid_backup
    }
}

mod soft {
    use super::*;

    on_a_share! { in the machine, Nfs::mounted_with("soft,timeo=10,retrans=1");
        faults::a_server_that_goes_in_mid_restore
        faults::a_server_that_goes_in_mid_backup
    }
}

mod version_3 {
    use super::*;

    on_a_share! { in the machine, Nfs::mounted_with("vers=3");
        faults::a_server_that_goes_in_mid_restore
        faults::a_server_that_goes_in_mid_backup
        faults::a_short_outage_is_survived
        waiting::a_server_that_stands_still_in_mid_backup
    }
}

/// Two mounts with all between them that two machines have.
mod two_machines {
    use super::*;

    on_a_share! { in the machine, Nfs::mounted_with("nosharecache");
        writers::two_writers_of_one_volume
    }
}
