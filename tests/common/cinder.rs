//! Backups as Cinder writes them, made by code that shares nothing with the program's.

use bytes::Bytes;
use cinderfs::codec::{Codec, compress};
use cinderfs::format::Layout;
use cinderfs::store::{Body, ObjectStore};
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What Cinder is configured to.
#[derive(Debug, Clone)]
pub struct Cinder {
    pub layout: Layout,
    /// As in metadata: any spelling.
    pub compression: String,
    pub object_size: usize,
    pub sha_block: usize,
    /// Of the stored bytes, as before Liberty.
    pub md5_of_stored: bool,
    pub with_sha256file: bool,
    pub container: Option<String>,
    pub name: Option<String>,
}

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Made {
    pub id: String,
    pub volume: String,
    pub container: String,
    pub prefix: String,
    pub image: Vec<u8>,
    pub sha_block: usize,
    /// Names of its chunks.
    pub objects: Vec<String>,
}

impl Cinder {
    pub fn new(layout: Layout, compression: &str) -> Self {
        Self {
            layout,
            compression: compression.into(),
            object_size: 32 << 10,
            sha_block: 4 << 10,
            md5_of_stored: false,
            with_sha256file: true,
            container: None,
            name: None,
        }
    }

    /// Backs `image` up, in full or as an increment on `parent`.
    pub async fn back_up(
        &self,
        store: &dyn ObjectStore,
        volume: &str,
        image: &[u8],
        parent: Option<&Made>,
    ) -> Made {
        let id = uuid::Uuid::new_v4().to_string();
        let (container, prefix) = match self.layout {
            Layout::Posix => (
                format!("{}/{}/{id}", &id[..2], &id[2..4]),
                format!("volume_{volume}_20240102030405_backup_{id}"),
            ),
            Layout::Swift => (
                "volumebackups".into(),
                format!("volume_{volume}/20240102030405/az_nova_backup_{id}"),
            ),
        };
        let mut made = Made {
            container: self.container.clone().unwrap_or(container),
            prefix,
            volume: volume.into(),
            image: image.to_vec(),
            sha_block: self.sha_block,
            objects: Vec::new(),
            id,
        };
        let mut objects: Vec<Value> = Vec::new();
        for (offset, data) in self.changed(image, parent) {
            let name = format!("{}-{:05}", made.prefix, objects.len() + 1);
            let codec = Codec::from_metadata(&self.compression).unwrap();
            let packed = compress(codec, &data).unwrap();
            let compression = match packed {
                Some(_) => self.compression.as_str(),
                None => "none",
            };
            let stored = packed.unwrap_or_else(|| data.clone());
            let md5 = Md5::digest(if self.md5_of_stored { &stored } else { &data });
            objects.push(json!({&name: {
                "offset": offset, "length": data.len(), "compression": compression,
                "md5": hex(&md5),
            }}));
            put(store, &made.container, &name, stored).await;
            made.objects.push(name);
        }
        let mut head = json!({
            "version": "1.0.0", "backup_id": made.id, "volume_id": volume,
            "backup_name": self.name, "backup_description": null,
            "created_at": "2024-01-02 03:04:05+00:00",
        });
        let mut metadata = head.clone();
        metadata["objects"] = Value::Array(objects);
        metadata["parent_id"] = json!(parent.map(|parent| &parent.id));
        metadata["volume_meta"] = json!("{\"version\": 2}");
        if self.with_sha256file {
            let hashes = image
                .chunks(self.sha_block)
                .map(|b| hex(&Sha256::digest(b)));
            head["chunk_size"] = json!(self.sha_block);
            head["sha256s"] = json!(hashes.collect::<Vec<_>>());
            let text = serde_json::to_vec_pretty(&head).unwrap();
            put(store, &made.container, &made.sha256file(), text).await;
        }
        let text = serde_json::to_vec_pretty(&metadata).unwrap();
        put(store, &made.container, &made.metadata(), text).await;
        made
    }

    /// The runs of changed blocks, which never cross a piece's border.
    fn changed(&self, image: &[u8], parent: Option<&Made>) -> Vec<(usize, Vec<u8>)> {
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        for (number, piece) in image.chunks(self.object_size).enumerate() {
            let start = number * self.object_size;
            let Some(parent) = parent else {
                runs.push((start, piece.to_vec()));
                continue;
            };
            assert_eq!(parent.sha_block, self.sha_block);
            let mut open = false;
            for (number, block) in piece.chunks(self.sha_block).enumerate() {
                let at = start + number * self.sha_block;
                let end = parent.image.len().min(at + self.sha_block);
                let same = parent.image.get(at..end) == Some(block);
                if !same && !open {
                    runs.push((at, Vec::new()));
                }
                open = !same;
                if open {
                    runs.last_mut().unwrap().1.extend_from_slice(block);
                }
            }
        }
        runs
    }
}

impl Made {
    pub fn metadata(&self) -> String {
        format!("{}_metadata", self.prefix)
    }

    pub fn sha256file(&self) -> String {
        format!("{}_sha256file", self.prefix)
    }

    /// The metadata document, changed by `edit`.
    pub async fn edit(&self, store: &dyn ObjectStore, edit: impl FnOnce(&mut Value)) {
        let text = get(store, &self.container, &self.metadata()).await;
        let mut document: Value = serde_json::from_slice(&text).unwrap();
        edit(&mut document);
        let text = serde_json::to_vec_pretty(&document).unwrap();
        put(store, &self.container, &self.metadata(), text).await;
    }

    /// The bytes of its chunk `index`, changed by `edit`.
    pub async fn edit_object(
        &self,
        store: &dyn ObjectStore,
        index: usize,
        edit: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut bytes = get(store, &self.container, &self.objects[index]).await;
        edit(&mut bytes);
        put(store, &self.container, &self.objects[index], bytes).await;
    }
}

/// What metadata says of chunk `index`.
pub fn entry(document: &mut Value, index: usize) -> &mut Value {
    let entry = document["objects"][index].as_object_mut().unwrap();
    entry.values_mut().next().unwrap()
}

pub async fn put(store: &dyn ObjectStore, container: &str, name: &str, bytes: Vec<u8>) {
    let body = Body::Bytes(Bytes::from(bytes));
    store.put(container, name, body).await.unwrap();
}

pub async fn get(store: &dyn ObjectStore, container: &str, name: &str) -> Vec<u8> {
    store
        .read(container, name, 0..u64::MAX)
        .await
        .unwrap()
        .to_vec()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
