//! `/.cinderfs`: what the daemon knows of itself and of each backup, as files. It is
//! found by name and never listed, so that `cp -r` and `find` do not wander into it.

use super::node::Node;
use super::{Backend, Tree, lock, names, not_found};
use crate::driver::{Backup, Record, Timestamp};
use crate::error::Result;
use crate::task::together;
use serde_json::{Value, json};
use std::sync::Arc;

/// The ending of the file that tells all about a backup.
const SIDECAR: &str = ".json";
/// The ending of the one that `cinder backup-import` takes.
const RECORD: &str = ".record";

impl Tree {
    /// What `name` stands for in a folder below `/.cinderfs`.
    pub(super) async fn lookup_control(&self, parent: &Node, name: &str) -> Result<Option<Node>> {
        Ok(match parent {
            Node::Control => match name {
                "status.json" => Some(Node::Status),
                "metrics" => Some(Node::Metrics),
                "by-id" => Some(Node::ById),
                _ => {
                    let backend = self
                        .backends
                        .iter()
                        .position(|backend| backend.name == name);
                    backend.map(Node::ControlBackend)
                }
            },
            Node::ById => {
                let found = self.find_by_id(name).await?;
                found.map(|_| Node::ByIdLink(name.to_owned()))
            }
            Node::ControlBackend(backend) => {
                let volume = names::volume_id_of(name);
                let volumes = self.volumes_in(*backend).await?;
                volume
                    .filter(|volume| volumes.contains(volume))
                    .map(|volume| Node::ControlVolume(*backend, volume))
            }
            Node::ControlVolume(backend, volume) => {
                let record = name.strip_suffix(RECORD);
                let Some(file) = record.or(name.strip_suffix(SIDECAR)) else {
                    return Ok(None);
                };
                let listed = self.listed_in(*backend, volume).await?;
                let found = listed.into_iter().find(|(known, _)| known == file);
                found.and_then(|(_, backup)| {
                    let ids = (volume.clone(), backup.id.clone());
                    match record {
                        None => Some(Node::Sidecar(*backend, ids.0, ids.1)),
                        // Nobody shall import what cannot be read.
                        Some(_) if backup.fault.is_some() => None,
                        Some(_) => Some(Node::Record(*backend, ids.0, ids.1)),
                    }
                })
            }
            _ => None,
        })
    }

    /// The entries of a folder below `/.cinderfs`.
    pub(super) async fn control_entries(&self, node: &Node) -> Result<Vec<(String, Node)>> {
        let mut entries = Vec::new();
        match node {
            Node::Control => {
                entries.push(("status.json".into(), Node::Status));
                entries.push(("metrics".into(), Node::Metrics));
                entries.push(("by-id".into(), Node::ById));
                for (index, backend) in self.backends.iter().enumerate() {
                    entries.push((backend.name.clone(), Node::ControlBackend(index)));
                }
            }
            Node::ById => {
                for backend in &self.backends {
                    match all_backups(backend).await {
                        Ok(backups) => {
                            entries.extend(backups.iter().map(|backup| {
                                (backup.id.clone(), Node::ByIdLink(backup.id.clone()))
                            }))
                        }
                        Err(e) => tracing::warn!("{e}"),
                    }
                }
                entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                entries.dedup_by(|a, b| a.0 == b.0);
            }
            Node::ControlBackend(backend) => {
                for volume in self.volumes_in(*backend).await? {
                    entries.push((
                        names::volume_name(&volume),
                        Node::ControlVolume(*backend, volume),
                    ));
                }
            }
            Node::ControlVolume(backend, volume) => {
                for (name, backup) in self.listed_in(*backend, volume).await? {
                    let node = Node::Sidecar(*backend, volume.clone(), backup.id.clone());
                    entries.push((format!("{name}{SIDECAR}"), node));
                    if backup.fault.is_none() {
                        let node = Node::Record(*backend, volume.clone(), backup.id.clone());
                        entries.push((format!("{name}{RECORD}"), node));
                    }
                }
            }
            _ => {
                let kind = crate::error::Kind::NotDirectory;
                return Err(crate::error::Error::new(
                    kind,
                    "list",
                    "a file",
                    "it is no folder",
                ));
            }
        }
        Ok(entries)
    }

    /// A backup by its id alone. A backend that is down does not hide those of others.
    async fn find_by_id(&self, id: &str) -> Result<Option<(usize, Arc<Backup>)>> {
        let mut failure = None;
        for (index, backend) in self.backends.iter().enumerate() {
            match all_backups(backend).await {
                Ok(backups) => {
                    if let Some(backup) = backups.into_iter().find(|backup| backup.id == id) {
                        return Ok(Some((index, backup)));
                    }
                }
                Err(e) => failure = Some(e),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Where `/.cinderfs/by-id/<id>` leads.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn link_target(&self, id: &str) -> Result<String> {
        let found = self.find_by_id(id).await?;
        let (backend, backup) = found.ok_or_else(|| not_found("backup", id))?;
        let listed = self.listed_in(backend, &backup.volume_id).await?;
        let name = listed
            .into_iter()
            .find(|(_, listed)| listed.id == backup.id);
        let (name, _) = name.ok_or_else(|| not_found("backup", id))?;
        let folder = &self.backend(backend)?.name;
        Ok(format!(
            "../../{folder}/{}/{name}",
            names::volume_name(&backup.volume_id)
        ))
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `NotFound` when the inode is no link.
    pub async fn read_link(&self, ino: u64) -> Result<String> {
        match self.nodes.get(ino)? {
            Node::ByIdLink(id) => self.link_target(&id).await,
            _ => Err(not_found("link", &ino.to_string())),
        }
    }

    /// The text of a file below `/.cinderfs`; `None` for anything else.
    pub(super) async fn text_of(&self, node: &Node) -> Result<Option<Vec<u8>>> {
        let text = match node {
            Node::Status => pretty(&self.status().await),
            Node::Metrics => self.metrics().into_bytes(),
            Node::Sidecar(backend, volume, id) => {
                let backup = self.backup(*backend, volume, id).await?;
                let metadata = self.driver(*backend)?.volume_metadata(&backup).await?;
                let mut described = describe(&backup);
                if let (Some(metadata), Some(all)) = (metadata, described.as_object_mut()) {
                    // As it is, where it is no JSON.
                    let metadata = serde_json::from_str(&metadata).unwrap_or(metadata.into());
                    all.insert("volume_metadata".into(), metadata);
                }
                pretty(&described)
            }
            Node::Record(backend, volume, id) => {
                let backup = self.backup(*backend, volume, id).await?;
                let others = self.driver(*backend)?.backups(volume).await?;
                pretty(&describe_record(&backup.record(&others)?))
            }
            _ => return Ok(None),
        };
        Ok(Some(text))
    }

    async fn status(&self) -> Value {
        let mut backends = vec![Value::Null; self.backends.len()];
        // One that is down must not hold up what is said of the others.
        let looks = self.backends.iter().zip(&mut backends);
        together(looks.map(|(backend, told)| async move {
            let volumes = backend.driver.volumes().await;
            let (state, error) = match volumes.err().or_else(|| backend.driver.trouble()) {
                None => ("available", None),
                Some(e) => ("unavailable", Some(e.to_string())),
            };
            *told = json!({
                "name": backend.name,
                "driver": backend.kind,
                "state": state,
                "error": error,
                "waiting": backend.driver.retried().map(|e| e.to_string()),
            });
        }))
        .await;
        let writing: Vec<Value> = lock(&self.drafts)
            .iter()
            .filter(|draft| draft.is_open())
            .map(|draft| {
                json!({
                    "backup_id": draft.id(),
                    "volume_id": draft.volume,
                    "name": draft.name(),
                    "size": draft.size(),
                })
            })
            .collect();
        let refused: Vec<Value> = lock(&self.refusals)
            .iter()
            .map(|refusal| json!({"at": refusal.at.to_python(), "reason": refusal.reason}))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "backends": backends,
            "writing": writing,
            "refused": refused,
            "memory": {
                "budget_bytes": self.settings.budget.total(),
                "used_bytes": self.settings.budget.used(),
            },
        })
    }

    fn metrics(&self) -> String {
        let budget = &self.settings.budget;
        let gauge = |name: &str, help: &str, value: u64| {
            format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
        };
        [
            gauge(
                "cinderfs_memory_budget_bytes",
                "The memory budget.",
                budget.total(),
            ),
            gauge(
                "cinderfs_memory_used_bytes",
                "Memory in use of it.",
                budget.used(),
            ),
            gauge(
                "cinderfs_open_files",
                "Open files and folders.",
                lock(&self.handles).len() as u64,
            ),
            gauge(
                "cinderfs_backups_being_written",
                "Backups that are being written.",
                lock(&self.drafts)
                    .iter()
                    .filter(|draft| draft.is_open())
                    .count() as u64,
            ),
        ]
        .concat()
    }
}

async fn all_backups(backend: &Backend) -> Result<Vec<Arc<Backup>>> {
    let mut backups = Vec::new();
    for volume in backend.driver.volumes().await? {
        backups.extend(backend.driver.backups(&volume).await?);
    }
    Ok(backups)
}

/// All that is known of a backup.
pub fn describe(backup: &Backup) -> Value {
    json!({
        "backup_id": backup.id,
        "volume_id": backup.volume_id,
        "parent_id": backup.parent_id,
        "name": backup.name,
        "description": backup.description,
        "created_at": backup.created_at.map(Timestamp::to_python),
        "size": backup.size,
        "data_bytes": backup.data_bytes,
        "stored_bytes": backup.stored_bytes,
        "object_count": backup.object_count,
        "compression": backup.compression,
        "depth": backup.depth,
        "service": backup.service,
        "container": backup.container,
        "service_metadata": backup.service_metadata,
        "error": backup.fault.as_ref().map(ToString::to_string),
    })
}

/// What `cinder backup-import` takes, under the names that `backup-export` gives.
pub fn describe_record(record: &Record) -> Value {
    json!({
        "backup_service": record.backup_service,
        "backup_url": record.backup_url,
    })
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
