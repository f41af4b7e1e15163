//! `cinderfs show`

use super::backends::find_backup;
use super::{Failure, StoreArguments, Threads, print, split_file};
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

/// Tells all that is known of a backup.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wired = arguments.store.wire(None)?;
    let target = split_file(&arguments.target)?;
    let (backup, _) = Threads::start()?.block_on(find_backup(&wired, target))?;
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
