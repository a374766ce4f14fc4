//! The landed programs and those of this source, with each other: what works between two of one version works between
//! these, in each of four pairs.
//!
//! `tests/landed` names the commit of the landed version.

mod fixtures;
mod scenarios;

use syncmount_tests::support::{Device, DirTimes, Version, World, assert_become_equal};

/// One device is of the client's version, the other of the server's: devices of both versions meet at each server whose
/// version differs from the client's.
#[derive(Clone, Copy)]
struct Pair {
    client: Version,
    server: Version,
}

impl Pair {
    fn world(self) -> World {
        World::with_server(self.server)
    }

    /// A server and two mounts.
    fn mounts(self) -> (World, Device, Device) {
        let world = self.world();
        let (a, b) = (self.a(&world, &[]), self.b(&world, &[]));
        (world, a, b)
    }

    /// A mount of the client's version.
    #[track_caller]
    fn a(self, world: &World, options: &[&str]) -> Device {
        mounted(world.device("A").of(self.client).with(options))
    }

    /// A mount of the server's version.
    #[track_caller]
    fn b(self, world: &World, options: &[&str]) -> Device {
        mounted(world.device("B").of(self.server).with(options))
    }

    /// A watched folder of the client's version.
    #[track_caller]
    fn watched(self, world: &World) -> Device {
        mounted(world.device("W").of(self.client).watched())
    }
}

#[track_caller]
fn mounted(device: Device) -> Device {
    device.mount();
    device
}

/// Everything is at the server, and both show the same.
#[track_caller]
fn become_same(a: &Device, b: &Device) {
    // Once more, because what the second sends can give the first something to do.
    for device in [a, b, a, b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        scenarios!(old_client_new_server, Version::Landed, Version::Current; $($name)*);
        scenarios!(new_client_old_server, Version::Current, Version::Landed; $($name)*);
        scenarios!(both_old, Version::Landed, Version::Landed; $($name)*);
        scenarios!(both_new, Version::Current, Version::Current; $($name)*);
    };
    ($pair:ident, $client:expr, $server:expr; $($name:ident)*) => {
        mod $pair {
            use super::{Pair, Version, scenarios};

            $(#[test]
            fn $name() {
                scenarios::$name(Pair { client: $client, server: $server });
            })*
        }
    };
}

scenarios! {
    a_device_joins_a_filled_folder
    both_write
    files_are_edited_in_place
    files_grow_and_shrink
    files_are_renamed
    directories_are_renamed
    editors_save_by_renaming
    names_are_swapped
    files_and_trees_are_removed
    both_edit_one_file_offline
    both_make_one_file_offline
    one_edits_what_the_other_removes
    links_arrive
    owners_survive_devices_and_servers_that_know_none
    attributes_arrive
    holes_stay_holes
    names_are_bytes
    many_small_files_arrive
    a_large_file_arrives_and_is_edited
    a_large_file_is_copied
    the_server_is_away_for_a_while
    the_server_is_killed
    the_server_is_restored_from_a_backup
    a_line_breaks_in_the_middle_of_a_file
    a_client_is_killed
    a_client_is_restarted_and_fetches_nothing_again
    unsent_changes_survive_an_unmount
    a_token_is_revoked
    a_second_folder_is_apart
    ignored_names_stay
    a_file_is_pinned
    removals_are_held
    a_folder_is_watched
    curl_reads_and_writes
    a_client_is_of_the_new_version_from_now_on
    a_server_is_of_the_new_version_from_now_on
    a_backup_of_before_the_upgrade_is_put_back
}
