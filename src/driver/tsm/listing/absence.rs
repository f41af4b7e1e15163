//! What is known of, and the server does not tell of: it may be gone, or the question may have
//! been put from where there never was anything.

use super::super::catalog::{self, Catalog, Note};
use super::super::client::Mode;
use super::super::evidence::{ADVICE, Place, Sight};
use super::super::names::{DEVICES, Name, is_plain};
use super::Listing;
use super::questions::{Unanswered, is_unanswered};
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

/// So many are named.
const NAMED: usize = 3;

impl Listing {
    /// Whether the server would tell of an object if it had it: it has told of others in the
    /// same place, which looks as it did then.
    ///
    /// # Errors
    /// A fault of the program.
    pub async fn is_certain(&self, name: &Name) -> Result<bool> {
        let place = Place::of(name, &self.options.staging);
        let known = self.lock().seen.get(&place).cloned();
        let node = self.client.owner().node;
        let now = blocking(move || Ok(Sight::of(&place, node))).await?;
        Ok(known == Some(now))
    }

    /// The server has told of an object.
    pub async fn see(&self, name: &Name) {
        let place = Place::of(name, &self.options.staging);
        if let Err(e) = self.see_places([place].into()).await {
            tracing::warn!("{e}");
        }
    }

    async fn see_places(&self, places: HashSet<Place>) -> Result<()> {
        let node = self.client.owner().node;
        let look = move || {
            let sight = |place: Place| {
                let sight = Sight::of(&place, node.clone());
                (place, sight)
            };
            Ok(places.into_iter().map(sight).collect::<HashMap<_, _>>())
        };
        let seen = blocking(look).await?;
        self.lock().seen.extend(seen);
        Ok(())
    }

    /// What notes and records name, and what was not found, though that was asked for.
    pub(super) async fn absence(
        &self,
        catalog: &Catalog,
        found: &HashSet<Name>,
        unanswered: &HashSet<Unanswered>,
    ) -> Result<Option<Error>> {
        let staging = &self.options.staging;
        let places = found.iter().map(|name| Place::of(name, staging)).collect();
        self.see_places(places).await?;
        let (mut gone, mut doubtful) = (Vec::new(), Vec::new());
        for (path, (name, is_note)) in self.expected(catalog) {
            if found.contains(&name) || is_unanswered(unanswered, &name) {
                continue;
            }
            let is_certain = self.is_certain(&name).await?;
            let (folder, id) = (self.options.catalog.clone(), name.id.clone());
            match (is_certain, is_note) {
                // Records outlive what they are of.
                (true, false) => self.warn_of(&path.to_string_lossy(), "in records alone"),
                // With an object its note goes.
                (_, true)
                    if blocking(move || Ok(catalog::note_of(&folder, &id)))
                        .await?
                        .is_none() => {}
                (true, true) => gone.push(path),
                (false, _) => doubtful.push(path),
            }
        }
        let error = |reason: String, advice: &str| {
            let error = Error::new(Kind::Unavailable, "list", "the backups", reason);
            Ok(Some(error.advise(advice)))
        };
        if !doubtful.is_empty() {
            let reason = format!(
                "the server says nothing of {}, which notes or records name, nor of anything \
                 beside that",
                some_of(&doubtful)
            );
            return error(
                reason,
                &format!("{ADVICE}; of what is gone, remove the records"),
            );
        }
        if !gone.is_empty() {
            let reason = format!(
                "the server has no more of {}, which our notes name",
                some_of(&gone)
            );
            let advice = "it was deleted elsewhere, or has expired: `cinderfs gc` removes notes";
            return error(reason, advice);
        }
        Ok(None)
    }

    /// What was once there, for all that notes and records say, and would be found by the
    /// questions that are put; and whether a note says so.
    fn expected(&self, catalog: &Catalog) -> BTreeMap<PathBuf, (Name, bool)> {
        let owner = self.client.owner();
        let is_ours = |note: &&Note| note.is_of(&owner) && !note.is_unconfirmed;
        let prefix = &self.options.prefix;
        let records = catalog.rows.values().map(|row| {
            let made = || format!("{DEVICES}/{prefix}-{}", row.id).into();
            (row.path.clone().unwrap_or_else(made), row.mode, false)
        });
        let notes = catalog.notes.values().filter(is_ours);
        let notes = notes.map(|note| (note.path.clone(), note.mode, true));
        let mut expected = BTreeMap::new();
        for (path, mode, is_note) in records.chain(notes) {
            if !is_plain(&path) || mode == Mode::Image && !self.options.lists_images {
                continue;
            }
            if let Some(name) = Name::parse(&path.to_string_lossy(), mode, prefix) {
                expected.insert(path, (name, is_note));
            }
        }
        expected
    }
}

/// Names some of them, and counts the rest.
fn some_of(paths: &[PathBuf]) -> String {
    let named = paths.iter().take(NAMED);
    let mut text: Vec<String> = named.map(|path| path.display().to_string()).collect();
    if paths.len() > NAMED {
        text.push(format!("and {} more", paths.len() - NAMED));
    }
    text.join(", ")
}
