//! `cinderfs show`

use super::backends::named_backups;
use super::{Failure, StoreArguments, print, runtime, split_target, usage};
use crate::error::{Error, Kind};
use crate::tree::describe;
use clap::Args;
use serde_json::Value;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// The backup, as a mount shows it
    #[arg(value_name = "BACKEND/VOLUME/FILE")]
    target: String,
}

/// No backup is shown under that name.
pub fn no_such_file(backend: &str, volume: &str, file: &str) -> Error {
    let subject = format!("{backend}/{volume}/{file}");
    Error::new(Kind::NotFound, "find", subject, "there is no such backup").advise(format!(
        "see `cinderfs ls {backend}/{volume}` for those that there are"
    ))
}

/// Tells all that is known of a backup.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wired = arguments.store.wire(None)?;
    let parts = split_target(&arguments.target).map_err(usage)?;
    let [backend, volume, file] = parts.as_slice() else {
        let reason = "it names no backup";
        let error = Error::new(Kind::Invalid, "show", arguments.target.clone(), reason);
        return Err(usage(error.advise("give BACKEND/VOLUME/FILE")));
    };
    let backup = runtime()?.block_on(async {
        let named = named_backups(wired.find(backend)?, volume).await?;
        named
            .get(*file)
            .cloned()
            .ok_or_else(|| no_such_file(backend, volume, file))
    })?;
    let described = describe(&backup);
    let text = match (arguments.json, described.as_object()) {
        (false, Some(fields)) => fields
            .iter()
            .map(|(name, value)| line(name, value))
            .collect(),
        _ => format!("{described:#}\n"),
    };
    print(&text).map_err(Failure::from)
}

fn line(name: &str, value: &Value) -> String {
    match value {
        Value::Null => format!("{name:<17} -\n"),
        Value::String(text) => format!("{name:<17} {}\n", text.escape_debug()),
        other => format!("{name:<17} {other}\n"),
    }
}
