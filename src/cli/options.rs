//! `-o`, as mount(8) gives it.

use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;

/// Mount options, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountArguments {
    /// `ro`
    pub read_only: bool,
    /// `allow_other`
    pub allow_other: bool,
    /// `nonempty`
    pub nonempty: bool,
    /// `config=FILE`
    pub config: Option<PathBuf>,
    /// `memory=SIZE`, in bytes
    pub memory: Option<u64>,
    /// `log=FILE`
    pub log: Option<PathBuf>,
}

/// What mount(8) and systemd mean for themselves, and flags that always hold here.
const IGNORED: [&str; 21] = [
    "rw",
    "user",
    "users",
    "owner",
    "group",
    "auto",
    "noauto",
    "_netdev",
    "nofail",
    "defaults",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "async",
    "noatime",
    "relatime",
    "nodiratime",
    "default_permissions",
];

impl MountArguments {
    /// Reads lists of options with commas between them.
    ///
    /// # Errors
    /// `Invalid` for an option that does not exist, or whose value makes no sense.
    pub fn parse(lists: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            match (name, value) {
                ("ro", None) => parsed.read_only = true,
                ("allow_other", None) => parsed.allow_other = true,
                ("nonempty", None) => parsed.nonempty = true,
                ("config", Some(file)) if !file.is_empty() => parsed.config = Some(file.into()),
                ("log", Some(file)) if !file.is_empty() => parsed.log = Some(file.into()),
                ("memory", Some(size)) => parsed.memory = Some(Settings::parse_memory(size)?),
                ("", None) => {}
                (name, None) if IGNORED.contains(&name) => {}
                (name, _) if name.starts_with("x-") => {}
                _ => {
                    let reason = "there is no such mount option";
                    return Err(Error::new(Kind::Invalid, "use option", option, reason).advise(
                        "there are: ro, allow_other, nonempty, config=FILE, memory=SIZE, log=FILE",
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountArguments> {
        MountArguments::parse(&[list.to_owned()])
    }

    #[test]
    fn takes_what_mount_gives() {
        let parsed =
            parse("rw,noexec,nosuid,nodev,allow_other,config=/etc/a.conf,user,_netdev,x-a=b");
        let expected = MountArguments {
            allow_other: true,
            config: Some("/etc/a.conf".into()),
            ..MountArguments::default()
        };
        assert_eq!(parsed.unwrap(), expected);
        assert_eq!(parse("ro,memory=64M").unwrap().memory, Some(64 << 20));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for list in [
            "alow_other",
            "config",
            "config=",
            "memory=lots",
            "ro=1",
            "user=x",
        ] {
            assert_eq!(parse(list).unwrap_err().kind(), Kind::Invalid, "{list}");
        }
    }
}
