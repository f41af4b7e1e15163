//! What every driver promises. To check another one: a line in `every_driver`.

#[path = "../common/mod.rs"]
mod common;

mod changing;
mod checking;
mod cinders_format;
mod garbage;
mod images;
mod incremental;
mod listing;
mod sent;
mod writing;

use cinderfs::config::Incremental;
use cinderfs::driver::chunked::Options;
use cinderfs::driver::{Backup, BackupSink, ChunkData};
use cinderfs::error::{Kind, Result};
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::fault::{Call, FaultStore};
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use common::cinder::get;
use common::library::{MIB, Rooms, options};
use common::mount::{Backend, Lab};
use common::swift::Swift;
use incremental::content as incremental_content;
use incremental::parents as incremental_parents;
use incremental::writing as incremental_writing;
use std::sync::Arc;
use std::time::Duration;

type Rule = Box<dyn Fn(&Call) -> Option<Kind> + Send + Sync>;

/// What can be asked of a store that is watched, whatever store it is.
pub trait Faults: Send + Sync {
    /// See [`FaultStore::fail_when`].
    fn fail_when(&self, rule: Rule);
    /// See [`FaultStore::take_chunk_reads`].
    fn take_chunk_reads(&self) -> (u64, u64);
}

impl<S: ObjectStore> Faults for FaultStore<S> {
    fn fail_when(&self, rule: Rule) {
        self.fail_when(rule);
    }

    fn take_chunk_reads(&self) -> (u64, u64) {
        self.take_chunk_reads()
    }
}

/// What a promise is checked on that is not about objects of Cinder's chunked format.
#[allow(async_fn_in_trait, reason = "only these tests use it")]
pub trait Ground {
    /// A program that knows nothing yet.
    fn rooms(&self) -> Rooms;
    /// The same with `incremental = auto`.
    fn auto(&self, max_chain: Option<u32>) -> Rooms;
    /// The same with `append_only`.
    fn append_only(&self) -> Rooms;
    /// The same with a `list_ttl` of an hour.
    fn slow(&self) -> Rooms;
    /// What there is, by name.
    async fn objects(&self) -> Vec<String>;
    /// The same, and what is in it.
    async fn content(&self) -> Vec<(String, Vec<u8>)>;
    /// Everything about a backup must be as it should, and nothing lie beside it.
    async fn check(&self, backup: &Backup, parent: Option<(&Backup, &[u8])>, image: &[u8]);
    /// How often something is tried that takes long in a store which is not near.
    fn rounds(&self, most: u64) -> u64;
}

impl Ground for Place {
    fn rooms(&self) -> Rooms {
        self.rooms()
    }

    fn auto(&self, max_chain: Option<u32>) -> Rooms {
        self.with(Options {
            incremental: Incremental::Auto,
            max_chain,
            ..options(self.layout)
        })
    }

    fn append_only(&self) -> Rooms {
        self.with(Options {
            append_only: true,
            ..options(self.layout)
        })
    }

    fn slow(&self) -> Rooms {
        self.with(Options {
            list_ttl: Duration::from_secs(3600),
            ..options(self.layout)
        })
    }

    async fn objects(&self) -> Vec<String> {
        self.objects().await
    }

    async fn content(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for container in self.store.containers("").await.unwrap() {
            for entry in self.store.list(&container, "").await.unwrap() {
                let bytes = get(self.store.as_ref(), &container, &entry.name).await;
                found.push((entry.name, bytes));
            }
        }
        found
    }

    async fn check(&self, backup: &Backup, parent: Option<(&Backup, &[u8])>, image: &[u8]) {
        incremental::check_objects(self, backup, parent, image).await;
    }

    fn rounds(&self, most: u64) -> u64 {
        most
    }
}

/// What a promise is checked on.
pub struct Place {
    pub store: Arc<dyn ObjectStore>,
    pub faults: Arc<dyn Faults>,
    pub layout: Layout,
    /// Whether other programs can be told what is being written.
    pub tells_others: bool,
    /// Whether containers go with what was in them.
    pub removes_containers: bool,
    _folder: Option<tempfile::TempDir>,
    _lab: Option<Lab>,
}

impl Place {
    fn over(store: impl ObjectStore + 'static, layout: Layout) -> Self {
        let store = Arc::new(FaultStore::new(store));
        Self {
            faults: Arc::clone(&store) as Arc<dyn Faults>,
            store,
            layout,
            tells_others: true,
            removes_containers: true,
            _folder: None,
            _lab: None,
        }
    }

    fn memory(layout: Layout) -> Self {
        Self::over(MemoryStore::new(), layout)
    }

    fn posix() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = PosixStore::open(folder.path()).unwrap();
        Self {
            _folder: Some(folder),
            ..Self::over(store, Layout::Posix)
        }
    }

    /// An account of its own. None when `--quick` leaves it out.
    fn swift() -> Option<Self> {
        let store = Swift::shared()?.account().store();
        Some(Self {
            tells_others: false,
            removes_containers: false,
            ..Self::over(store, Layout::Swift)
        })
    }

    /// A share of its own. None when `--quick` leaves it out.
    fn glusterfs() -> Option<Self> {
        let lab = Lab::on(Backend::GlusterFs, "")?;
        let place = Self::over(lab.store_on_share(), Layout::Posix);
        Some(Self {
            _lab: Some(lab),
            ..place
        })
    }

    pub fn with(&self, options: Options) -> Rooms {
        Rooms::new(Arc::clone(&self.store), options, 64 * MIB)
    }

    pub fn rooms(&self) -> Rooms {
        self.with(options(self.layout))
    }

    pub async fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        for container in self.store.containers("").await.unwrap() {
            for entry in self.store.list(&container, "").await.unwrap() {
                found.push(entry.name);
            }
        }
        found
    }
}

macro_rules! every_driver {
    ($($driver:ident: $make:expr;)*) => {$(
        mod $driver {
            use super::*;

            every_promise! { $make;
                writing::publishes_what_was_stored
                writing::keeps_what_is_said_of_it
                writing::takes_chunks_in_any_order
                writing::publishes_again
                writing::two_rewritten_chunks_never_share_an_object
                writing::refuses_what_is_incomplete
                writing::discards
                changing::changes_names_descriptions_and_times
                changing::what_another_program_deletes_does_not_come_back
                changing::deletes_what_nothing_is_built_on
                changing::deletes_nothing_when_it_may_only_append
                changing::deletes_from_a_store_that_is_full
                incremental_content::an_increment_is_what_cinder_would_write
                incremental_content::nothing_changed_makes_no_object
                incremental_content::an_image_may_grow
                incremental_content::a_smaller_image_is_no_increment
                incremental_content::a_smaller_image_may_grow_again
                incremental_content::zeros_over_data_are_a_change
                incremental_content::no_chunk_of_the_parent_is_fetched
                incremental_content::a_list_that_is_damaged_inside_makes_changes
                incremental_parents::the_newest_that_is_fit_becomes_the_parent
                incremental_parents::a_chain_is_no_longer_than_it_may_be
                incremental_parents::a_parent_that_is_deleted_by_another
                incremental_parents::a_parent_that_is_deleted_in_the_last_moment
                incremental_parents::a_parent_that_is_written_anew_by_another
                incremental_parents::a_parent_may_be_renamed_meanwhile
                incremental_parents::a_parent_stays_while_its_child_is_written
                incremental_parents::two_children_of_one_parent
                incremental_parents::a_child_of_what_was_just_published
                incremental_writing::what_was_published_stays_after_a_revert
                incremental_writing::discarding_leaves_nothing
                incremental_writing::whatever_put_fails_nothing_is_lost
                incremental_writing::a_chunk_that_failed_can_be_stored_again
                incremental_writing::a_hole_that_failed_can_be_stored_again
                incremental_writing::what_failed_to_become_a_full_one_is_an_increment_still
                incremental_writing::what_is_sealed_takes_nothing_more
                listing::lists_nothing_without_metadata
                listing::shows_what_others_do
                listing::shows_what_it_knows_while_the_store_is_down
                listing::tells_of_a_backup_that_is_gone
                checking::finds_nothing_wrong_with_what_is_whole
                checking::finds_nothing_wrong_with_images_of_other_sizes
                checking::finds_what_is_missing_and_what_is_too_much
                checking::finds_chains_that_are_broken
                checking::finds_lists_of_hashes_that_are_wrong
                checking::checks_what_no_object_holds
                checking::checks_a_sample
                checking::verifies_what_is_published_again
                checking::tells_what_has_changed
                garbage::finds_no_garbage_among_what_is_finished
                garbage::finds_and_removes_what_was_never_finished
                garbage::finds_and_removes_strays
                garbage::leaves_alone_what_may_be_of_another_backup
                garbage::leaves_alone_what_metadata_does_not_tell
                garbage::leaves_alone_what_others_are_built_on
                garbage::leaves_alone_what_is_young
                garbage::leaves_alone_what_is_being_written
                garbage::removes_a_list_of_hashes_that_was_never_published
                garbage::removes_nothing_when_it_may_only_append
            }
        }
    )*};
}

/// The same, with so many requests that only a store which is near answers them in time.
macro_rules! every_near_driver {
    ($($driver:ident: $make:expr;)*) => {
        mod at_length {
            use super::*;

            $(mod $driver {
                use super::*;

                every_promise! { $make;
                    incremental_content::random_changes_are_what_cinder_would_write
                    incremental_content::a_chain_of_fifty
                    incremental_parents::a_child_that_is_begun_while_its_parent_goes
                    incremental_writing::chunks_may_change_at_any_time
                    checking::finds_objects_that_are_damaged
                }
            })*
        }
    };
}

macro_rules! every_promise {
    ($make:expr; $($room:ident::$promise:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            if let Some(place) = $make {
                crate::$room::$promise(&place).await;
            }
        }
    )*};
}

every_driver! {
    posix_layout_in_memory: Some(Place::memory(Layout::Posix));
    swift_layout_in_memory: Some(Place::memory(Layout::Swift));
    posix: Some(Place::posix());
    swift: Place::swift();
    glusterfs: Place::glusterfs();
}

/// Where backups are images, and not objects in Cinder's chunked format. What was published as
/// an increment stays one there, and what another program may be writing cannot be renamed.
mod ceph {
    use super::*;

    every_promise! { images::Images::new();
        writing::refuses_what_is_incomplete
        writing::discards
        incremental_content::a_smaller_image_is_no_increment
        incremental_parents::a_chain_is_no_longer_than_it_may_be
        incremental_parents::a_parent_stays_while_its_child_is_written
        incremental_parents::a_child_of_what_was_just_published
        incremental_writing::what_was_published_stays_after_a_revert
        incremental_writing::discarding_leaves_nothing
        incremental_writing::what_is_sealed_takes_nothing_more
        incremental_writing::chunks_may_change_at_any_time
        listing::tells_of_a_backup_that_is_gone
    }
}

/// Where backups are objects that a client sends as a whole, by an emulator of that client.
/// There are no increments, and no names that change.
mod tsm {
    use super::*;

    every_promise! { Some(sent::Objects::new());
        writing::keeps_what_is_said_of_it
        writing::takes_chunks_in_any_order
        writing::publishes_again
        writing::refuses_what_is_incomplete
        writing::discards
        changing::deletes_nothing_when_it_may_only_append
        listing::shows_what_others_do
        listing::tells_of_a_backup_that_is_gone
    }
}

every_near_driver! {
    posix_layout_in_memory: Some(Place::memory(Layout::Posix));
    swift_layout_in_memory: Some(Place::memory(Layout::Swift));
    posix: Some(Place::posix());
}

pub fn chunk(bytes: &[u8]) -> ChunkData {
    ChunkData::Memory(bytes.to_vec().into())
}

pub async fn store_all(sink: &dyn BackupSink, image: &[u8]) -> Result<()> {
    for (index, bytes) in (0..).zip(image.chunks(sink.chunk_size() as usize)) {
        sink.store(index, chunk(bytes)).await?;
    }
    Ok(())
}
