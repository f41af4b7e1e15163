//! Mounts a share where Cinder does, by mount(8), and unmounts it.

use super::anchor::Anchor;
use super::lease::Lease;
use super::program;
use crate::config::{Share, ShareKind};
use crate::error::{Error, Kind, Result};
use crate::mountinfo::{Mount, as_listed, mounted_on};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that mount(8) may take, whatever the deadline of a request.
const LONGEST_MOUNT: Duration = Duration::from_secs(30);
/// The time before the second attempt; each further one is twice as late, as Cinder's.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// And no later than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked again what is mounted there, when that changes all the time.
const LOOKS: u32 = 4;
const FSTAB: &str = "/etc/fstab";

/// Finds the share mounted, or mounts it, and then holds a lease. `is_over`: the program
/// ends. `note` hears why an attempt has failed that is not the last. Blocks.
///
/// # Errors
/// `Unavailable`, with the words of mount(8) and what to do.
pub fn bring_up(
    share: &Share,
    is_over: &dyn Fn() -> bool,
    note: &dyn Fn(&Error),
) -> Result<(Anchor, Option<Lease>)> {
    let mut is_ours = false;
    for _ in 0..LOOKS {
        // Each time: the folders above may have been made by the last.
        let path = as_listed(&share.mount_point);
        let Some(mount) = mounted_on(&path)? else {
            is_ours = mount_patiently(share, &path, is_over, note)?;
            continue;
        };
        if mount.kind == "autofs" {
            // It mounts when somebody looks; and then that is what is there.
            let _ = fs::read_dir(&path);
            if mounted_on(&path)?.as_ref() == Some(&mount) {
                return Err(unusable(share, &path, "its automount has mounted nothing"));
            }
            continue;
        }
        let lease = is_ours.then(|| Lease::of(&mount));
        check(share, &path, &mount)?;
        let anchor = Anchor::at(&path, &mount.device, &mount.options).map_err(|e| {
            let advice = format!("if that stays so, unmount it: umount -l {}", path.display());
            unusable(share, &path, e).advise(advice)
        })?;
        if let Some(anchor) = anchor {
            return Ok((anchor, lease));
        }
    }
    let reason = "others mount and unmount there all the time";
    Err(unusable(share, &share.mount_point, reason))
}

fn unusable(share: &Share, path: &Path, reason: impl std::fmt::Display) -> Error {
    let subject = format!("share {} on {}", share.share, path.display());
    Error::new(Kind::Unavailable, "use", subject, reason)
}

/// Whether that mount is the share.
fn check(share: &Share, path: &Path, mount: &Mount) -> Result<()> {
    let is_kind = match share.kind {
        ShareKind::Nfs => matches!(mount.kind.as_str(), "nfs" | "nfs4"),
        ShareKind::GlusterFs => mount.kind == "fuse.glusterfs",
    };
    let source = mount.source.to_string_lossy();
    let is_share = plain(share.kind, &source) == plain(share.kind, &share.share);
    if is_kind && is_share && mount.root == Path::new("/") {
        return Ok(());
    }
    let folder = match mount.root.to_str() {
        Some("/") | None => String::new(),
        Some(root) => format!(", its folder {root}"),
    };
    let reason = format!(
        "something else is mounted there: {source} (type {}{folder})",
        mount.kind
    );
    let advice = match is_kind {
        // Cinder takes whatever is there: it may be in use.
        true => format!(
            "if it is the same, write it so: {source}; else unmount it: umount {}",
            path.display()
        ),
        false => format!("unmount it: umount {}", path.display()),
    };
    Err(unusable(share, path, reason).advise(advice))
}

/// A share as it is compared: both spellings of what is the same are one.
fn plain(kind: ShareKind, share: &str) -> String {
    // `host:/` is the whole of a server.
    let short = share.trim_end_matches('/');
    let share = if short.ends_with(':') { share } else { short };
    match kind {
        ShareKind::Nfs => share.to_owned(),
        ShareKind::GlusterFs => share.replacen(":/", ":", 1),
    }
}

/// Tries as often as the options say. Whether it was mounted here, and not by somebody else.
fn mount_patiently(
    share: &Share,
    path: &Path,
    is_over: &dyn Fn() -> bool,
    note: &dyn Fn(&Error),
) -> Result<bool> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let mounted = mount_once(share, path, is_over);
        if mounted_on(path)?.is_some() {
            // If that failed, it was by somebody else, who was faster.
            let is_ours = mounted.is_ok_and(|is_ours| is_ours);
            if is_ours {
                tracing::info!("mounted share {} on {}", share.share, path.display());
            }
            return Ok(is_ours);
        }
        let Err(e) = mounted else {
            return Ok(false);
        };
        if attempt >= share.attempts || is_over() {
            return Err(e);
        }
        note(&e);
        attempt += 1;
        let until = Instant::now() + pause;
        while Instant::now() < until && !is_over() {
            std::thread::sleep(LOOK);
        }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Whether it was mounted here, and not by somebody else meanwhile.
fn mount_once(share: &Share, path: &Path, is_over: &dyn Fn() -> bool) -> Result<bool> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        if !is_in_fstab(path) {
            return Err(not_root(share, path));
        }
        return run_mount(share, path, &[path.as_os_str()], is_over).map(|()| true);
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let reason = "there is a symbolic link in that place";
        return Err(unusable(share, path, reason).advise("remove it: the folder is made anew"));
    }
    fs::create_dir_all(path).map_err(|e| {
        let subject = format!("the folder {} for share {}", path.display(), share.share);
        Error::new(Kind::Unavailable, "make", subject, e)
    })?;
    // Two programs that mount at once would mount twice.
    let alone = lock_base(path, is_over);
    if mounted_on(path)?.is_some() {
        return Ok(false);
    }
    let mut result = Ok(());
    for options in all_options(share) {
        let mut arguments = vec![OsStr::new("-t"), OsStr::new(share.kind.name())];
        if let Some(options) = &options {
            arguments.extend([OsStr::new("-o"), OsStr::new(options)]);
        }
        arguments.extend([OsStr::new(&share.share), path.as_os_str()]);
        result = run_mount(share, path, &arguments, is_over);
        match &result {
            // Another version would not be answered either.
            Err(e) if e.kind() == Kind::TimedOut => break,
            Err(_) if is_over() || mounted_on(path)?.is_some() => break,
            Err(_) => {}
            Ok(()) => break,
        }
    }
    drop(alone);
    result.map(|()| true)
}

/// The folder above, locked against other programs of ours, if that can be had.
fn lock_base(path: &Path, is_over: &dyn Fn() -> bool) -> Option<File> {
    let base = File::open(path.parent()?).ok()?;
    let until = Instant::now() + LONGEST_MOUNT;
    while Instant::now() < until && !is_over() {
        match flock(&base, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOOK),
            _ => break,
        }
    }
    Some(base)
}

/// The options to be tried, one after the other: those of Cinder (os-brick), which looks
/// for version 4.2, then 4.1, then what mount(8) finds, unless a version is given.
fn all_options(share: &Share) -> Vec<Option<String>> {
    let given = share.mount_options.as_deref();
    if share.kind == ShareKind::GlusterFs {
        return vec![given.map(str::to_owned)];
    }
    let named = || given.unwrap_or_default().split(',').map(str::trim);
    let is_version = |option: &str| {
        let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        option.starts_with("nfsvers")
            || option.starts_with("vers")
            || option.strip_prefix('v').is_some_and(digit)
    };
    let mut base: Vec<&str> = named().filter(|option| !option.is_empty()).collect();
    if !named().any(|option| option.starts_with("retry")) {
        // Left alone, it goes on for two minutes with a server that refuses.
        base.push("retry=0");
    }
    let with = |more: &[&str]| Some([base.as_slice(), more].concat().join(","));
    match named().any(is_version) {
        true => vec![with(&[])],
        false => vec![
            with(&["vers=4", "minorversion=2"]),
            with(&["vers=4", "minorversion=1"]),
            with(&[]),
        ],
    }
}

fn run_mount(
    share: &Share,
    path: &Path,
    arguments: &[&OsStr],
    is_over: &dyn Fn() -> bool,
) -> Result<()> {
    let limit = share.request_timeout.min(LONGEST_MOUNT);
    let subject = || format!("share {} on {}", share.share, path.display());
    let fail = |kind, reason: String| Error::new(kind, "mount", subject(), reason);
    let ran = program::run("mount", arguments, limit, is_over).map_err(|e| {
        let reason = format!("mount(8) cannot be run: {e}");
        fail(Kind::Unavailable, reason).advise("install the package mount")
    })?;
    match ran.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let words = match ran.said.as_str() {
                "" => format!("mount(8) ended with {status}"),
                said => said.to_owned(),
            };
            let error = fail(Kind::Unavailable, words);
            Err(match missing_helper(share.kind) {
                Some(package) => error.advise(format!("install the package {package}")),
                None => error.advise(words_elsewhere(share.kind)),
            })
        }
        None => {
            let reason = format!("mount(8) has not ended in {} s", limit.as_secs_f64());
            let reason = match ran.said.as_str() {
                "" => reason,
                said => format!("{reason}: {said}"),
            };
            Err(fail(Kind::TimedOut, reason).advise("see whether the server answers"))
        }
    }
}

/// The package of the program that mount(8) calls, if that is not here.
fn missing_helper(kind: ShareKind) -> Option<&'static str> {
    let (helper, package) = match kind {
        ShareKind::Nfs => ("mount.nfs", "nfs-common"),
        ShareKind::GlusterFs => ("mount.glusterfs", "glusterfs-client"),
    };
    let folders = ["/sbin", "/usr/sbin"];
    let is_here = folders
        .iter()
        .any(|folder| Path::new(folder).join(helper).exists());
    (!is_here).then_some(package)
}

fn words_elsewhere(kind: ShareKind) -> &'static str {
    match kind {
        ShareKind::Nfs => "it is tried again when it is used",
        ShareKind::GlusterFs => {
            "its client says more in /var/log/glusterfs; it is tried again when it is used"
        }
    }
}

/// Whether an ordinary user may mount on that folder.
fn is_in_fstab(path: &Path) -> bool {
    let table = fs::read_to_string(FSTAB).unwrap_or_default();
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [source, folder, _, options, ..] = fields.as_slice() else {
            return false;
        };
        let mut options = options.split(',');
        !source.starts_with('#')
            && Path::new(&folder.replace("\\040", " ")) == path
            && options.any(|option| matches!(option, "user" | "users"))
    })
}

/// What to do about it, with the line for fstab.
fn not_root(share: &Share, path: &Path) -> Error {
    let escape = |text: &str| text.replace(' ', "\\040");
    let options = match &share.mount_options {
        Some(options) => format!("noauto,user,{options}"),
        None => "noauto,user".to_owned(),
    };
    let line = format!(
        "{} {} {} {} 0 0",
        escape(&share.share),
        escape(&path.display().to_string()),
        share.kind.name(),
        escape(&options)
    );
    unusable(share, path, "it is not mounted, and only root may do that").advise(format!(
        "let root make the folder and add to {FSTAB} the line \"{line}\", or mount it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn share(driver: &str, lines: &str) -> Share {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("[DEFAULT]\nbackup_driver = {driver}\n{lines}\n");
        fs::write(file.path(), text).unwrap();
        let config = Config::load(file.path()).unwrap();
        let crate::config::Driver::Share(share) = config.backends[0].driver.clone() else {
            panic!("not a share");
        };
        *share
    }

    fn nfs(options: &str) -> Share {
        let lines = format!("backup_share = nas:/b\nbackup_mount_options = {options}");
        share("nfs", &lines)
    }

    #[test]
    fn the_newest_version_is_tried_first_unless_one_is_given() {
        let all = |options: &str| {
            let all = all_options(&nfs(options)).into_iter();
            all.map(Option::unwrap).collect::<Vec<_>>()
        };
        let expected = [
            "retry=0,vers=4,minorversion=2",
            "retry=0,vers=4,minorversion=1",
            "retry=0",
        ];
        assert_eq!(all(""), expected);
        assert_eq!(all("soft, retry=1").last().unwrap(), "soft,retry=1");
        for version in ["vers=3", "nfsvers=4.1", "v3", "vers=4,minorversion=1"] {
            assert_eq!(all(version), [format!("{version},retry=0")]);
        }
        let gluster = share("glusterfs", "glusterfs_backup_share = nas:b");
        assert_eq!(all_options(&gluster), [None]);
    }

    #[test]
    fn a_mount_is_the_share_or_is_refused() {
        let path = Path::new("/m");
        let mount = |kind: &str, source: &str, root: &str| Mount {
            id: 1,
            device: "0:1".into(),
            root: root.into(),
            folder: path.into(),
            kind: kind.into(),
            source: source.into(),
            options: String::new(),
        };
        let nfs = nfs("");
        assert!(check(&nfs, path, &mount("nfs4", "nas:/b", "/")).is_ok());
        assert!(check(&nfs, path, &mount("nfs", "nas:/b/", "/")).is_ok());
        let gluster = share("glusterfs", "glusterfs_backup_share = nas:b");
        assert!(check(&gluster, path, &mount("fuse.glusterfs", "nas:/b", "/")).is_ok());
        for (share, other) in [
            (&nfs, mount("ext4", "/dev/sda", "/")),
            (&nfs, mount("nfs4", "nas:/c", "/")),
            (&nfs, mount("nfs4", "nas:/b", "/below")),
            (&gluster, mount("nfs", "nas:b", "/")),
            (&gluster, mount("fuse.glusterfs", "nas:/c", "/")),
        ] {
            let error = check(share, path, &other).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("something else is mounted there"),
                "{error}"
            );
        }
    }

    #[test]
    fn who_is_not_root_hears_which_line_would_do() {
        let error = not_root(&nfs("soft"), Path::new("/m/x y")).to_string();
        let line = "nas:/b /m/x\\040y nfs noauto,user,soft 0 0";
        assert!(error.contains(line), "{error}");
    }
}
