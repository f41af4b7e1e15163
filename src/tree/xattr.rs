//! Extended attributes: what is known of a backup, as `user.cinder.*`.

use super::node::Node;
use super::{Tree, lock};
use crate::driver::{Backup, Change, Timestamp};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

/// Why an attribute cannot be given or set.
#[derive(Debug, Clone)]
pub enum XattrError {
    /// There is no attribute of that name.
    Missing,
    /// It cannot be set here.
    Refused,
    /// Anything else.
    Failed(Error),
}

impl From<Error> for XattrError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

const PREFIX: &str = "user.cinder.";
const DESCRIPTION: &str = "user.cinder.description";

/// All attributes of a backup that have a value.
fn attributes(backup: &Backup) -> Vec<(&'static str, String)> {
    let created = backup.created_at.map(Timestamp::to_python);
    let mut all = vec![
        ("backup_id", Some(backup.id.clone())),
        ("volume_id", Some(backup.volume_id.clone())),
        ("parent_id", backup.parent_id.clone()),
        ("name", backup.name.clone()),
        ("description", backup.description.clone()),
        ("created_at", created),
        ("service", Some(backup.service.to_owned())),
        ("container", Some(backup.container.clone())),
        ("object_count", Some(backup.object_count.to_string())),
        (
            "stored_bytes",
            backup.stored_bytes.map(|bytes| bytes.to_string()),
        ),
        ("compression", Some(backup.compression.clone())),
        ("depth", Some(backup.depth.to_string())),
    ];
    all.retain(|(_, value)| value.is_some());
    all.into_iter()
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .collect()
}

impl Tree {
    async fn backup_with_attributes(&self, ino: u64) -> Result<Option<Arc<Backup>>> {
        let Node::Backup(backend, volume, id) = self.nodes.get(ino)? else {
            return Ok(None);
        };
        if let Some(draft) = self.draft(backend, &volume, &id) {
            return Ok(draft.published());
        }
        self.backup(backend, &volume, &id).await.map(Some)
    }

    /// The value of an attribute.
    ///
    /// # Errors
    /// `Missing`; those of listing the backup.
    pub async fn xattr(&self, ino: u64, name: &str) -> Result<Vec<u8>, XattrError> {
        // Asked for on every write (`security.capability`) and by `ls` (ACLs).
        let Some(key) = name.strip_prefix(PREFIX) else {
            return Err(XattrError::Missing);
        };
        let backup = self
            .backup_with_attributes(ino)
            .await?
            .ok_or(XattrError::Missing)?;
        let found = attributes(&backup)
            .into_iter()
            .find(|(known, _)| *known == key);
        found
            .map(|(_, value)| value.into_bytes())
            .ok_or(XattrError::Missing)
    }

    /// The names of all attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// Those of listing the backup.
    pub async fn xattr_names(&self, ino: u64) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        if let Some(backup) = self.backup_with_attributes(ino).await? {
            for (key, _) in attributes(&backup) {
                names.extend_from_slice(PREFIX.as_bytes());
                names.extend_from_slice(key.as_bytes());
                names.push(0);
            }
        }
        Ok(names)
    }

    /// Sets an attribute, or removes it (`None`). Only the description of a backup is
    /// kept. Of a new one, all others are accepted and not kept: `cp -p` and `rsync -a`
    /// set them.
    ///
    /// # Errors
    /// `Refused`; those of the driver.
    pub async fn set_xattr(
        &self,
        ino: u64,
        name: &str,
        value: Option<&[u8]>,
    ) -> Result<(), XattrError> {
        let Node::Backup(backend, volume, id) = self.nodes.get(ino)? else {
            return Err(XattrError::Refused);
        };
        if name != DESCRIPTION {
            let ours = name.starts_with(PREFIX);
            return match self.draft(backend, &volume, &id) {
                Some(_) if !ours && value.is_some() => Ok(()),
                _ if value.is_none() => Err(XattrError::Missing),
                _ => Err(XattrError::Refused),
            };
        }
        let words = match value.map(|value| String::from_utf8(value.to_vec())) {
            None => None,
            Some(Ok(words)) => Some(words),
            Some(Err(e)) => {
                return Err(Error::new(Kind::Invalid, "set", DESCRIPTION, e).into());
            }
        };
        let change = Change {
            description: Some(words),
            ..Change::default()
        };
        self.change(backend, &volume, &id, change).await?;
        // A listing made before would show the old words.
        lock(&self.views).remove(&(backend, volume));
        Ok(())
    }
}
