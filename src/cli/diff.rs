//! `cinderfs diff`

use super::backends::find_backup;
use super::{Failure, StoreArguments, Threads, print, say, split_file, usage};
use crate::driver::Content;
use crate::error::{Error, Kind, Result};
use clap::Args;
use serde_json::{Value, json};
use std::ops::Range;

/// How much text is printed at a time, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// A backup, as a mount shows it
    #[arg(value_name = "A: BACKEND/VOLUME/FILE")]
    from: String,
    /// Another one of the same volume
    #[arg(value_name = "B: BACKEND/VOLUME/FILE")]
    to: String,
}

/// What the second backup has in a range in which the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Data,
    Zero,
    /// Its image ends before.
    Absent,
}

impl Now {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Zero => "zero",
            Self::Absent => "absent",
        }
    }
}

/// Tells where two backups of a volume differ.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wired = arguments.store.wire(None)?;
    let (from, to) = (split_file(&arguments.from)?, split_file(&arguments.to)?);
    if from[..2] != to[..2] {
        let subject = format!("{} with {}", arguments.from, arguments.to);
        let reason = "they are not of one volume in one backend";
        return Err(usage(Error::new(Kind::Invalid, "compare", subject, reason)));
    }
    Threads::start()?.block_on(async {
        let driver = wired.find(from[0])?;
        let (old, _) = find_backup(&wired, from).await?;
        let (new, _) = find_backup(&wired, to).await?;
        let changes = driver.changes(&old, &new).await?;
        let image = driver.open(&new).await?;
        let mut found = Vec::new();
        for change in changes {
            split(image.as_ref(), change, &mut found).await?;
        }
        tell(arguments, &found, old.size, new.size)
    })?;
    Ok(())
}

/// Cuts a range where the image changes between data and zeros: its list of hashes tells.
async fn split(
    image: &dyn Content,
    range: Range<u64>,
    found: &mut Vec<(Range<u64>, Now)>,
) -> Result<()> {
    let end = range.end.min(image.size());
    let mut at = range.start;
    while at < end {
        let data = image.seek(at, false).await?.unwrap_or(end).min(end);
        if data > at {
            found.push((at..data, Now::Zero));
            at = data;
            continue;
        }
        let hole = image.seek(at, true).await?.unwrap_or(end).min(end);
        // What is neither would be a fault: it is told as data, and ends this.
        let hole = if hole > at { hole } else { end };
        found.push((at..hole, Now::Data));
        at = hole;
    }
    if range.end > at {
        found.push((at..range.end, Now::Absent));
    }
    Ok(())
}

fn tell(arguments: &Arguments, found: &[(Range<u64>, Now)], old: u64, new: u64) -> Result<()> {
    let sum = |wanted: Now| -> u64 {
        let of_it = found.iter().filter(|(_, now)| *now == wanted);
        of_it.map(|(range, _)| range.end - range.start).sum()
    };
    let (data, zero, absent) = (sum(Now::Data), sum(Now::Zero), sum(Now::Absent));
    if arguments.json {
        let row = |(range, now): &(Range<u64>, Now)| -> Value {
            json!({
                "offset": range.start,
                "length": range.end - range.start,
                "kind": now.name(),
            })
        };
        let document = json!({
            "from": {"path": arguments.from, "size": old},
            "to": {"path": arguments.to, "size": new},
            "changes": found.iter().map(row).collect::<Vec<_>>(),
            "summary": {"data": data, "zero": zero, "absent": absent},
        });
        return print(&format!("{document:#}\n"));
    }
    let mut text = String::new();
    for (range, now) in found {
        let length = range.end - range.start;
        text.push_str(&format!(
            "{:>15} {length:>15} {}\n",
            range.start,
            now.name()
        ));
        if text.len() > PIECE_BYTES {
            print(&text)?;
            text.clear();
        }
    }
    print(&text)?;
    let cut = match absent {
        0 => String::new(),
        some => format!(", {some} cut off"),
    };
    say(&format!(
        "{} bytes differ: {data} are data now, {zero} zero{cut}",
        data + zero + absent
    ));
    Ok(())
}
