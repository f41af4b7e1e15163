//! `cinderfs record`

use super::backends::find_backup;
use super::{Failure, StoreArguments, Threads, print, split_file};
use crate::tree::describe_record;
use clap::Args;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// JSON, for programs: the default
    #[arg(long, conflicts_with = "command")]
    json: bool,
    /// The command line that imports the backup
    #[arg(long)]
    command: bool,
    /// The backup, as a mount shows it
    #[arg(value_name = "BACKEND/VOLUME/FILE")]
    target: String,
}

/// Prints what `cinder backup-import` takes.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wired = arguments.store.wire(None)?;
    let target = split_file(&arguments.target)?;
    let (backup, named) = Threads::start()?.block_on(find_backup(&wired, target))?;
    let others: Vec<_> = named.into_values().collect();
    let record = backup.record(&others)?;
    let text = match arguments.command {
        // Neither a class path nor base64 needs quotes.
        true => format!(
            "cinder backup-import {} {}\n",
            record.backup_service, record.backup_url
        ),
        false => format!("{:#}\n", describe_record(&record)),
    };
    print(&text).map_err(Failure::from)
}
