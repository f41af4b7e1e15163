//! `cinderfs verify`

use super::backends::{Wired, named_backups, no_such_file};
use super::progress::Bar;
use super::{Failure, StoreArguments, Threads, print, split_target, usage};
use crate::driver::{Backup, BackupDriver, Verdict};
use crate::error::{Error, Kind, Result};
use crate::tree::volume_name;
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Read only that many percent of each backup's objects, chosen at random
    #[arg(long, value_name = "PERCENT", default_value_t = 100,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    sample: u8,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// What to check; without it, the backups of all backends
    #[arg(value_name = "BACKEND[/VOLUME[/FILE]]")]
    target: Option<String>,
}

/// A backup that is to be checked.
struct Job<'a> {
    driver: &'a dyn BackupDriver,
    path: String,
    backup: Arc<Backup>,
}

/// What came of all of them.
#[derive(Default)]
struct Outcome {
    rows: Vec<Value>,
    /// Backups that were checked.
    checked: u64,
    /// Those of them in which something is wrong.
    damaged: u64,
    /// What could not be checked at all.
    failures: Vec<String>,
}

/// Checks backups, a line each. Whether nothing is wrong.
pub fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let wired = arguments.store.wire(None)?;
    let target = arguments.target.as_deref().unwrap_or_default();
    let parts = match target {
        "" => Vec::new(),
        target => split_target(target).map_err(usage)?,
    };
    let outcome = Threads::start()?.block_on(check_all(&wired, arguments, &parts))?;
    let (checked, damaged, failed) = (outcome.checked, outcome.damaged, outcome.failures.len());
    if arguments.json {
        let document = json!({
            "backups": outcome.rows,
            "failures": outcome.failures,
            "summary": {"checked": checked, "damaged": damaged, "failed": failed},
        });
        print(&format!("{document:#}\n"))?;
    } else {
        let not_checked = match failed {
            0 => String::new(),
            some => format!(", {some} could not be checked"),
        };
        let plural = if checked == 1 { "" } else { "s" };
        print(&format!(
            "{checked} backup{plural} checked, {damaged} damaged{not_checked}\n"
        ))?;
    }
    Ok(damaged == 0 && failed == 0)
}

async fn check_all(wired: &Wired, arguments: &Arguments, parts: &[&str]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut jobs = Vec::new();
    match parts {
        [] => {
            for backend in &wired.backends {
                let driver = backend.driver.as_ref();
                find_in_backend(driver, &backend.name, &mut jobs, &mut outcome, arguments).await;
            }
        }
        [name] => {
            let driver = wired.find(name)?;
            find_in_backend(driver, name, &mut jobs, &mut outcome, arguments).await;
        }
        [name, volume, file @ ..] => {
            let driver = wired.find(name)?;
            jobs = find_in_volume(driver, name, volume).await?;
            if file.is_empty() {
                tell_hidden(driver, name, &mut outcome, arguments);
            }
            if let [file, ..] = file {
                let path = format!("{name}/{volume}/{file}");
                jobs.retain(|job| job.path == path);
                if jobs.is_empty() {
                    return Err(no_such_file(name, volume, file));
                }
            }
        }
    }
    let total = jobs.iter().map(|job| job.backup.size).sum();
    let bar = Bar::new("checking", total, arguments.json);
    for job in jobs {
        check(&job, arguments, &bar, &mut outcome).await?;
    }
    Ok(outcome)
}

/// All backups of a backend. One that cannot be read does not stop the others.
async fn find_in_backend<'a>(
    driver: &'a dyn BackupDriver,
    name: &str,
    jobs: &mut Vec<Job<'a>>,
    outcome: &mut Outcome,
    arguments: &Arguments,
) {
    let volumes = match driver.volumes().await {
        Ok(volumes) => volumes,
        Err(e) => return outcome.fail(&e.within(format!("backend {name}")), arguments),
    };
    tell_hidden(driver, name, outcome, arguments);
    for volume in volumes {
        match find_in_volume(driver, name, &volume_name(&volume)).await {
            Ok(found) => jobs.extend(found),
            // Deleted since it was listed.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => outcome.fail(&e.within(format!("backend {name}")), arguments),
        }
    }
}

/// Backups that nobody can see are not checked: that must not look like success.
fn tell_hidden(
    driver: &dyn BackupDriver,
    name: &str,
    outcome: &mut Outcome,
    arguments: &Arguments,
) {
    for place in driver.hidden() {
        let reason = "permission denied";
        let error = Error::new(Kind::Denied, "check the backups in", place, reason);
        let error = error.within(format!("backend {name}"));
        outcome.fail(&error.advise("do it as the owner of the store"), arguments);
    }
}

async fn find_in_volume<'a>(
    driver: &'a dyn BackupDriver,
    name: &str,
    volume: &str,
) -> Result<Vec<Job<'a>>> {
    let named = named_backups(driver, volume).await?;
    let job = |(file, backup): (String, Arc<Backup>)| Job {
        driver,
        path: format!("{name}/{volume}/{file}"),
        backup,
    };
    Ok(named.into_iter().map(job).collect())
}

async fn check(
    job: &Job<'_>,
    arguments: &Arguments,
    bar: &Bar,
    outcome: &mut Outcome,
) -> Result<()> {
    let verdict = match job.driver.verify(&job.backup, arguments.sample, bar).await {
        Ok(verdict) => verdict,
        // Deleted while others were checked.
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        Err(e) => {
            let e = e.within(&job.path);
            bar.pause(|| outcome.fail(&e, arguments));
            return Ok(());
        }
    };
    outcome.checked += 1;
    outcome.damaged += u64::from(!verdict.problems.is_empty());
    if arguments.json {
        outcome.rows.push(row(job, &verdict));
        return Ok(());
    }
    bar.pause(|| print(&lines(job, &verdict)))
}

impl Outcome {
    fn fail(&mut self, error: &Error, arguments: &Arguments) {
        if !arguments.json {
            super::complain(error);
        }
        self.failures.push(error.to_string());
    }
}

fn row(job: &Job<'_>, verdict: &Verdict) -> Value {
    json!({
        "path": job.path,
        "backup_id": job.backup.id,
        "volume_id": job.backup.volume_id,
        "ok": verdict.problems.is_empty(),
        "size": job.backup.size,
        "objects": verdict.objects,
        "bytes": verdict.bytes,
        "only_md5": verdict.only_md5,
        "only_read": verdict.only_read,
        "problems": verdict.problems,
    })
}

fn lines(job: &Job<'_>, verdict: &Verdict) -> String {
    let state = match verdict.problems.is_empty() {
        true => "ok",
        false => "DAMAGED",
    };
    let note = match verdict {
        verdict if !verdict.problems.is_empty() => "",
        verdict if verdict.only_md5 => " (only md5: no list of hashes)",
        verdict if verdict.only_read => " (only read: no hashes)",
        _ => "",
    };
    let (size, objects) = (job.backup.size, verdict.objects);
    let mut text = format!("{state:<7} {size:>15} {objects:>6} {}{note}\n", job.path);
    for problem in &verdict.problems {
        text.push_str(&format!("        {problem}\n"));
    }
    text
}
