//! Cinder's chunked backup format: names, the metadata document, the list of block
//! hashes, and which object holds which part of a volume; and the names of its ceph driver.
//!
//! Everything here is pure: bytes in, values out. It must not know where objects are
//! kept or how they are read. All of it is input from outside, so no length found in
//! it is trusted and no name in it is used before it was checked.

mod extents;
mod hashes;
mod hex;
mod metadata;
mod names;
mod python;
mod rbd;
mod record;
mod time;

pub use extents::{Extent, Layer, resolve};
pub use hashes::{
    DIGEST_BYTES, Digest, HashListHeader, HashListTail, format_sha256file_head,
    format_sha256file_tail, parse_sha256_entries, push_sha256_entry, zero_digest,
};
pub use hex::{from_hex, to_hex};
pub(crate) use metadata::LARGEST_METADATA;
pub use metadata::{FORMAT_VERSION, Metadata, ObjectEntry, Own};
pub use names::{BackupName, Layout, METADATA_SUFFIX, SHA256FILE_SUFFIX};
pub use rbd::{
    BaseName, SnapName, deleted_image, is_our_source_snapshot, leftover_image,
    of_volume_metadata_object, service_metadata, snap_name, source_snapshot,
    volume_metadata_object, writing_image,
};
pub use record::{ExportedBackup, Record};
pub use time::{Timestamp, stamp};
