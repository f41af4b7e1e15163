//! What every driver promises. To check another one: a line in `every_driver`.

#[path = "../common/mod.rs"]
mod common;

mod changing;
mod checking;
mod cinders_format;
mod garbage;
mod listing;
mod writing;

use cinderfs::driver::chunked::Options;
use cinderfs::driver::{BackupSink, ChunkData};
use cinderfs::error::Result;
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use common::library::{MIB, Rooms, options};
use std::sync::Arc;

/// What a promise is checked on.
pub struct Place {
    pub store: Arc<dyn ObjectStore>,
    pub layout: Layout,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn memory(layout: Layout) -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            layout,
            _folder: None,
        }
    }

    fn posix() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: Arc::new(PosixStore::open(folder.path()).unwrap()),
            layout: Layout::Posix,
            _folder: Some(folder),
        }
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
                writing::takes_chunks_in_any_order
                writing::publishes_again
                writing::two_rewritten_chunks_never_share_an_object
                writing::refuses_what_is_incomplete
                writing::discards
                changing::changes_names_descriptions_and_times
                changing::deletes_what_nothing_is_built_on
                changing::deletes_nothing_when_it_may_only_append
                listing::lists_nothing_without_metadata
                listing::shows_what_others_do
                listing::tells_of_a_backup_that_is_gone
                checking::finds_nothing_wrong_with_what_is_whole
                checking::finds_nothing_wrong_with_images_of_other_sizes
                checking::finds_objects_that_are_damaged
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

macro_rules! every_promise {
    ($make:expr; $($room:ident::$promise:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::$room::$promise(&$make).await;
        }
    )*};
}

every_driver! {
    posix_layout_in_memory: Place::memory(Layout::Posix);
    swift_layout_in_memory: Place::memory(Layout::Swift);
    posix: Place::posix();
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
