//! `cinderfs rm`

use super::backends::{Wired, find_backup, named_backups};
use super::{Failure, StoreArguments, Threads, complain, log, split_target, usage};
use crate::driver::{Backup, leaves_first};
use crate::error::{Error, Kind, Result};
use clap::Args;
use std::collections::HashSet;
use std::sync::Arc;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Delete all backups of a volume that is named
    #[arg(short = 'r', long)]
    recursive: bool,
    /// The backups, as a mount shows them
    #[arg(value_name = "BACKEND/VOLUME/FILE", required = true)]
    targets: Vec<String>,
}

/// A backup that is to go.
struct Doomed<'a> {
    backend: &'a str,
    backup: Arc<Backup>,
}

/// Deletes backups, and says of each that cannot be deleted why.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wired = arguments.store.wire(None)?;
    let mut targets = Vec::new();
    for target in &arguments.targets {
        targets.push(check_target(target, arguments.recursive).map_err(usage)?);
    }
    log::start_for_command();
    let failures = Threads::start()?.block_on(remove_all(&wired, &targets));
    match failures.split_last() {
        None => Ok(()),
        Some((last, others)) => {
            others.iter().for_each(complain);
            Err(last.clone().into())
        }
    }
}

fn check_target(target: &str, recursive: bool) -> Result<Vec<&str>> {
    let parts = split_target(target)?;
    let (reason, advice) = match (parts.len(), recursive) {
        (3, _) | (2, true) => return Ok(parts),
        (2, false) => ("it is a volume", "give -r to delete all of its backups"),
        _ => ("it names no backup", "give BACKEND/VOLUME/FILE"),
    };
    Err(Error::new(Kind::Invalid, "delete", target, reason).advise(advice))
}

async fn remove_all(wired: &Wired, targets: &[Vec<&str>]) -> Vec<Error> {
    let mut doomed: Vec<Doomed<'_>> = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        match resolve(wired, target).await {
            Ok(found) => doomed.extend(found),
            Err(e) => failures.push(e),
        }
    }
    failures.extend(remove_in_order(wired, doomed).await);
    failures
}

async fn resolve<'a>(wired: &Wired, target: &[&'a str]) -> Result<Vec<Doomed<'a>>> {
    let (backend, backups) = match *target {
        [backend, volume] => {
            let named = named_backups(wired.find(backend)?, volume).await?;
            (backend, named.into_values().collect())
        }
        [backend, volume, file] => {
            let (backup, _) = find_backup(wired, [backend, volume, file]).await?;
            (backend, vec![backup])
        }
        _ => return Ok(Vec::new()),
    };
    let doomed = |backup| Doomed { backend, backup };
    Ok(backups.into_iter().map(doomed).collect())
}

/// Deletes what others are built on after those.
async fn remove_in_order(wired: &Wired, mut doomed: Vec<Doomed<'_>>) -> Vec<Error> {
    // Named twice, perhaps as a part of its volume.
    let mut seen = HashSet::new();
    doomed.retain(|one| seen.insert((one.backend, one.backup.service_metadata.clone())));
    leaves_first(&mut doomed, |one| &one.backup);
    let mut failures = Vec::new();
    for one in doomed {
        failures.extend(remove(wired, &one).await.err());
    }
    failures
}

async fn remove(wired: &Wired, one: &Doomed<'_>) -> Result<()> {
    wired.find(one.backend)?.delete(&one.backup).await
}
