//! `cinderfs ls`

use super::backends::{Wired, named_backups, no_such_file};
use super::{Failure, StoreArguments, Threads, log, print, split_target, usage};
use crate::driver::{Backup, BackupDriver};
use crate::error::{Kind, Result};
use crate::format::Timestamp;
use crate::tree::{describe, volume_name};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// A line with details for each
    #[arg(short)]
    long: bool,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// What to list; without it, the backends
    #[arg(value_name = "BACKEND[/VOLUME]")]
    target: Option<String>,
}

/// Lists backends, volumes or backups.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wired = arguments.store.wire(None)?;
    let target = arguments.target.as_deref().unwrap_or_default();
    let parts = if target.is_empty() {
        Vec::new()
    } else {
        split_target(target).map_err(usage)?
    };
    log::start_for_command();
    let text = Threads::start()?.block_on(async {
        match parts.as_slice() {
            [] => Ok(backends(&wired, arguments)),
            [backend] => volumes(&wired, arguments, backend).await,
            [backend, volume] => backups(&wired, arguments, backend, volume, None).await,
            [backend, volume, file, ..] => {
                backups(&wired, arguments, backend, volume, Some(file)).await
            }
        }
    })?;
    print(&text).map_err(Failure::from)
}

fn as_json(value: &Value) -> String {
    format!("{value:#}\n")
}

fn backends(wired: &Wired, arguments: &Arguments) -> String {
    if arguments.json {
        let all = wired
            .backends
            .iter()
            .map(|b| json!({"name": b.name, "driver": b.kind}));
        return as_json(&all.collect());
    }
    let line = |b: &crate::tree::Backend| match arguments.long {
        true => format!("{:<10} {}\n", b.kind, b.name),
        false => format!("{}\n", b.name),
    };
    wired.backends.iter().map(line).collect()
}

async fn volumes(wired: &Wired, arguments: &Arguments, backend: &str) -> Result<String> {
    let driver = wired.find(backend)?;
    let mut rows = Vec::new();
    for volume in driver.volumes().await? {
        let backups = match arguments.long || arguments.json {
            true => driver.backups(&volume).await?,
            false => Vec::new(),
        };
        rows.push((volume, backups));
    }
    if arguments.json {
        let row = |(volume, backups): &(String, Vec<Arc<Backup>>)| json!({"volume_id": volume, "name": volume_name(volume), "backups": backups.len()});
        return Ok(as_json(&rows.iter().map(row).collect()));
    }
    let line = |(volume, backups): &(String, Vec<Arc<Backup>>)| match arguments.long {
        true => format!("{:>6} {}\n", backups.len(), volume_name(volume)),
        false => format!("{}\n", volume_name(volume)),
    };
    Ok(rows.iter().map(line).collect())
}

async fn is_listed(driver: &dyn BackupDriver, volume: &str) -> Result<bool> {
    let volumes = driver.volumes().await?;
    Ok(volumes.iter().any(|id| volume_name(id) == volume))
}

async fn backups(
    wired: &Wired,
    arguments: &Arguments,
    backend: &str,
    volume: &str,
    file: Option<&str>,
) -> Result<String> {
    let driver = wired.find(backend)?;
    let mut named = match named_backups(driver, volume).await {
        // What is listed as a volume can be listed.
        Err(e) if e.kind() == Kind::NotFound && is_listed(driver, volume).await? => BTreeMap::new(),
        other => other?,
    };
    if let Some(file) = file {
        named.retain(|name, _| name == file);
        if named.is_empty() {
            return Err(no_such_file(backend, volume, file));
        }
    }
    if arguments.json {
        let row = |(file, backup): (&String, &Arc<Backup>)| {
            let mut row = describe(backup);
            row["file"] = json!(file);
            row
        };
        return Ok(as_json(&named.iter().map(row).collect()));
    }
    let line = |(file, backup): (&String, &Arc<Backup>)| match arguments.long {
        true => long_line(file, backup),
        false => format!("{file}\n"),
    };
    Ok(named.iter().map(line).collect())
}

fn long_line(file: &str, backup: &Backup) -> String {
    let kind = match (&backup.fault, &backup.parent_id) {
        (Some(_), _) => "damaged",
        (None, Some(_)) => "incremental",
        (None, None) => "full",
    };
    let created = backup
        .created_at
        .map_or_else(|| "-".into(), Timestamp::to_name);
    format!(
        "{kind:<11} {:>15} {created:<16} {:<10} {file}\n",
        backup.size, backup.compression
    )
}
