//! The promises of the configuration, from the text of a file to options or one error.

mod ceph;
mod limits;
mod share;
mod swift;
mod swift_login;
mod tsm;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::assembly;
use super::environment::Environment;
use super::ini::Document;
use super::place::{self, Homes};
use super::{Backend, Config, Driver, Posix, Settings};
use crate::error::{Kind, Result};

fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables: HashMap<String, OsString> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect();
    Environment::of(move |name| variables.get(name).cloned())
}

fn homes(variables: &[(&str, &str)]) -> Homes {
    Homes::of(&environment(variables))
}

fn parse_in(text: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let document = Document::parse(Path::new("cinder.conf"), text)?;
    assembly::of_document(&document, &environment(variables))
}

fn parse(text: &str) -> Result<Config> {
    parse_in(text, &[("HOME", "/home/ada")])
}

fn accept(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The message for a text that must be refused, as `Invalid`.
fn refuse(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    error.to_string()
}

/// The message for one more line in an otherwise right `[DEFAULT]`, where it is line 3.
fn refuse_line(line: &str) -> String {
    let message = refuse(&format!("[DEFAULT]\nbackup_driver = posix\n{line}\n"));
    assert!(message.contains("cinder.conf:3, [DEFAULT]"), "{message}");
    message
}

fn posix(backend: &Backend) -> &Posix {
    let Driver::Posix(posix) = &backend.driver else {
        panic!("{backend:?}");
    };
    posix
}

fn only(text: &str) -> Posix {
    let config = accept(text);
    assert_eq!(config.backends.len(), 1);
    posix(&config.backends[0]).clone()
}

fn path_of(text: &str) -> PathBuf {
    only(text).path
}

#[test]
fn cinders_defaults_hold() {
    let config = accept("[DEFAULT]\nbackup_driver=cinder.backup.drivers.posix.PosixBackupDriver\n");
    assert_eq!(config.settings.memory, 256 << 20);
    assert_eq!(
        config.settings.spool_path,
        Path::new("/home/ada/.cache/cinderfs")
    );
    let [backend] = config.backends.as_slice() else {
        panic!("{config:?}");
    };
    assert_eq!(backend.name, "posix");
    assert_eq!(backend.common.list_ttl, Duration::from_secs(5));
    assert!(!backend.common.append_only);
    let posix = posix(backend);
    assert_eq!(posix.path, Path::new("/var/lib/cinder/backup"));
    assert_eq!(posix.chunked.object_size, 1_999_994_880);
    assert_eq!(posix.chunked.sha_block_size, 32768);
    assert_eq!(posix.chunked.compression, "zlib");
    assert_eq!(posix.chunked.container, None);
}

#[test]
fn every_option_is_read() {
    let config = accept(
        "[DEFAULT]\n\
         memory = 64MiB\n\
         spool_path = /var/cache/cinderfs\n\
         backup_driver = posix\n\
         backup_posix_path = /srv/backup\n\
         backup_file_size = 131072\n\
         backup_sha_block_size_bytes = 65536\n\
         backup_compression_algorithm = BZip2\n\
         backup_container = team/monthly\n\
         list_ttl = 0.25\n\
         append_only = Yes\n",
    );
    assert_eq!(
        config.settings,
        Settings {
            memory: 64 << 20,
            spool_path: PathBuf::from("/var/cache/cinderfs"),
        }
    );
    let backend = &config.backends[0];
    assert_eq!(backend.common.list_ttl, Duration::from_millis(250));
    assert!(backend.common.append_only);
    let posix = posix(backend);
    assert_eq!(posix.path, Path::new("/srv/backup"));
    assert_eq!(posix.chunked.object_size, 131_072);
    assert_eq!(posix.chunked.sha_block_size, 65_536);
    assert_eq!(posix.chunked.compression, "bzip2");
    assert_eq!(posix.chunked.container.as_deref(), Some("team/monthly"));
}

#[test]
fn each_section_with_a_driver_is_a_backend() {
    let config = accept(
        "[lvm]\nvolume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver\nanything = 1\n\
         [second]\nbackup_driver = cinder.backup.drivers.posix\nbackup_posix_path = /b\nlist_ttl = 9\n\
         [DEFAULT]\nbackup_driver = posix\nbackup_posix_path = /a\nappend_only = on\nlist_ttl = 1\n\
         enabled_backends = lvm\nbackup_workers = 4\ntransport_url = rabbit://u:p@h/\n\
         [first of all]\nbackup_driver = posix\nbackup_posix_path = /c\nappend_only = off\n",
    );
    let found: Vec<_> = config
        .backends
        .iter()
        .map(|backend| {
            let path = posix(backend).path.to_str().unwrap();
            let ttl = backend.common.list_ttl.as_secs();
            (backend.name.as_str(), path, ttl, backend.common.append_only)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("posix", "/a", 1, true),
            ("second", "/b", 9, true),
            ("first of all", "/c", 1, false),
        ]
    );
}

#[test]
fn cinders_options_are_not_inherited_but_ours_are() {
    let config = accept(
        "[DEFAULT]\nbackup_posix_path = /a\nbackup_compression_algorithm = zstd\nlist_ttl = 7\n\
         state_path = /state\n\
         [x]\nbackup_driver = posix\n",
    );
    let backend = &config.backends[0];
    assert_eq!(backend.name, "x");
    // The default refers to $state_path, and references do look into [DEFAULT].
    assert_eq!(posix(backend).path, Path::new("/state/backup"));
    assert_eq!(posix(backend).chunked.compression, "zlib");
    assert_eq!(backend.common.list_ttl, Duration::from_secs(7));
}

#[test]
fn syntax_is_that_of_oslo() {
    let with = |value: &str| format!("[DEFAULT]\nbackup_driver: posix\n{value}\n");
    for (lines, path) in [
        ("backup_posix_path=/a", "/a"),
        ("backup_posix_path : /a", "/a"),
        ("backup_posix_path = /a = b : c", "/a = b : c"),
        ("backup_posix_path: /a=b", "/a=b"),
        ("backup_posix_path = \"/with blank \"", "/with blank "),
        ("backup_posix_path = '/a'\r", "/a"),
        ("backup_posix_path = /a # no comment", "/a # no comment"),
        ("backup_posix_path = /a\"", "/a\""),
        (
            "backup_posix_path = /a\n; comment\n# comment\n\nbackup_posix_path = /b",
            "/b",
        ),
        (
            "[other]\nx = 1\n[DEFAULT]\nbackup_posix_path = /again",
            "/again",
        ),
        (
            "description = one\n  two: three\n\tfour\nbackup_posix_path = /a",
            "/a",
        ),
    ] {
        assert_eq!(path_of(&with(lines)), Path::new(path), "{lines}");
    }
}

#[test]
fn bad_syntax_names_file_and_line() {
    for (text, line, why) in [
        ("backup_driver = posix", 1, "before the first section"),
        ("[DEFAULT]\nbackup_driver", 2, "neither \"=\" nor \":\""),
        ("[DEFAULT]\n= posix", 2, "no name"),
        ("[DEFAULT\n", 1, "does not end with \"]\""),
        ("\n[]\n", 2, "no name"),
        ("[DEFAULT]\n  a = b", 2, "white space"),
        ("[DEFAULT]\na = b\n# comment\n  c", 4, "white space"),
        ("[DEFAULT]\na = b\n\n  c", 4, "white space"),
        ("[x]\na = b\n[y]\n  c", 4, "white space"),
    ] {
        let message = refuse(text);
        assert!(
            message.contains(&format!("cinder.conf:{line}:")),
            "{message}"
        );
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn references_are_replaced() {
    for (lines, path) in [
        ("state_path = /s", "/s/backup"),
        ("state_path = /s\nbackup_posix_path = ${state_path}x", "/sx"),
        ("a = /a\nb = $a/b\nbackup_posix_path = $b/c", "/a/b/c"),
        (
            "backup_posix_path = $other.top/c\n[other]\ntop = /$below\nbelow = x",
            "/x/c",
        ),
        ("backup_posix_path = /a$$b", "/a$b"),
        ("backup_posix_path = /a\\$b\\n", "/a$b\\n"),
        ("backup_posix_path = /a$ $5 ${ ${9} $", "/a$ $5 ${ ${9} $"),
        (
            "backup_posix_path = /$backup_compression_algorithm",
            "/zlib",
        ),
    ] {
        let text = format!("[DEFAULT]\nbackup_driver = posix\n{lines}\n");
        assert_eq!(path_of(&text), Path::new(path), "{lines}");
    }
    let own = "[DEFAULT]\nstate_path = /d\n[x]\nbackup_driver = posix\nstate_path = /x\n";
    assert_eq!(path_of(own), Path::new("/x/backup"));
}

#[test]
fn bad_references_are_refused() {
    let message = refuse_line("backup_posix_path = $nowhere/x");
    assert!(message.contains("refers to $nowhere"), "{message}");
    let message = refuse_line("backup_posix_path = $other.x");
    assert!(message.contains("refers to $other.x"), "{message}");
    let message = refuse_line("backup_posix_path = $a\na = $b\nb = $a");
    assert!(
        message.contains("backup_posix_path -> a -> b -> a"),
        "{message}"
    );
    let message = refuse_line("backup_posix_path = /$backup_posix_path");
    assert!(message.contains("circle"), "{message}");

    let mut bomb = String::from("backup_posix_path = /$v0\n");
    for level in 0..12 {
        bomb += &format!("v{level} = {}\n", format!("$v{} ", level + 1).repeat(10));
    }
    bomb += "v12 = 0123456789";
    let message = refuse_line(&bomb);
    assert!(message.contains("longer than"), "{message}");
}

#[test]
fn bad_values_name_place_and_remedy() {
    for (line, parts) in [
        (
            "backup_file_size = 100000",
            &[
                "100000 is not a multiple of backup_sha_block_size_bytes 32768",
                "98304",
            ][..],
        ),
        (
            "backup_file_size = 100",
            &["100 is not a multiple", "backup_file_size of 32768 is"],
        ),
        (
            "backup_sha_block_size_bytes = 100000",
            &[
                "backup_file_size 1999994880 is not a multiple of backup_sha_block_size_bytes 100000",
            ],
        ),
        ("backup_file_size = 0", &["\"0\"", "from 1"]),
        ("backup_file_size = -32768", &["\"-32768\""]),
        ("backup_file_size = 50M", &["\"50M\"", "plain digits"]),
        (
            "backup_file_size = 9223372036854808576",
            &["to 9223372036854775807"],
        ),
        ("backup_sha_block_size_bytes = 0", &["\"0\""]),
        (
            "backup_sha_block_size_bytes = 1073741825",
            &["to 1073741824"],
        ),
        (
            "backup_compression_algorithm = lz4",
            &["codec \"lz4\"", "none, off, no, zlib"],
        ),
        ("backup_compression_algorithm =", &["codec \"\""]),
        ("backup_posix_path =", &["empty", "absolute"]),
        (
            "backup_posix_path = backup",
            &["\"backup\" is not an absolute path"],
        ),
        ("backup_posix_path = ~/backup", &["\"~\""]),
        ("backup_posix_path = /a\n  x = y", &["line break"]),
        ("backup_container =", &["empty", "leave the option out"]),
        ("backup_container = /a", &["\"/a\""]),
        ("backup_container = a/", &["\"a/\""]),
        ("backup_container = a//b", &["\"a//b\""]),
        ("backup_container = a/../b", &["\"a/../b\""]),
        ("backup_container = .hidden", &["\".hidden\""]),
        ("memory = much", &["\"much\"", "256MiB"]),
        ("memory = 1K", &["at least 16 MiB"]),
        ("memory = 99999999999G", &["\"99999999999G\""]),
        ("memory = 256MB", &["\"256MB\""]),
        ("spool_path = here", &["\"here\" is not an absolute path"]),
        ("list_ttl = soon", &["\"soon\"", "seconds"]),
        ("list_ttl = -1", &["\"-1\""]),
        ("list_ttl = inf", &["\"inf\""]),
        ("list_ttl = NaN", &["\"NaN\""]),
        ("append_only = maybe", &["\"maybe\"", "true, 1, on or yes"]),
    ] {
        let message = refuse_line(line);
        let option = line.split(' ').next().unwrap();
        assert!(
            message.contains(&format!("[DEFAULT] {option}: ")),
            "{message}"
        );
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn values_are_read_in_all_their_spellings() {
    let with = |line: &str| format!("[DEFAULT]\nbackup_driver = posix\n{line}\n");
    for codec in ["none", "OFF", "No", "ZLIB", "gzip", "bz2", "bzip2", "Zstd"] {
        let posix = only(&with(&format!("backup_compression_algorithm = {codec}")));
        assert_eq!(posix.chunked.compression, codec.to_lowercase());
    }
    for (text, memory) in [
        ("16777216", 16 << 20),
        ("16384K", 16 << 20),
        ("16384 kib", 16 << 20),
        ("300m", 300 << 20),
        ("300 MiB", 300 << 20),
        ("2G", 2 << 30),
        ("2gib", 2 << 30),
    ] {
        assert_eq!(
            accept(&with(&format!("memory = {text}"))).settings.memory,
            memory
        );
        assert_eq!(Settings::parse_memory(text).unwrap(), memory);
    }
    let message = Settings::parse_memory("lots").unwrap_err().to_string();
    assert!(message.contains("memory: \"lots\""), "{message}");
    for (text, on) in [
        ("TRUE", true),
        ("1", true),
        ("on", true),
        ("False", false),
        ("0", false),
    ] {
        let config = accept(&with(&format!("append_only = {text}")));
        assert_eq!(config.backends[0].common.append_only, on);
    }
}

#[test]
fn unknown_options_are_refused_where_they_matter() {
    let message = refuse_line("backup_posix_pth = /a");
    assert!(
        message.contains("did you mean \"backup_posix_path\"?"),
        "{message}"
    );
    let message = refuse_line("backup_nonsense_of_mine = /a");
    assert!(message.contains("cinderfs.conf(5)"), "{message}");
    // Even where [DEFAULT] is no backend.
    refuse("[DEFAULT]\nbackup_drivr = posix\n[x]\nbackup_driver = posix\n");

    let section = |line: &str| format!("[x]\nbackup_driver = posix\n{line}\n");
    let message = refuse(&section("list_tll = 3"));
    assert!(message.contains("cinder.conf:3, [x] list_tll"), "{message}");
    assert!(message.contains("did you mean \"list_ttl\"?"), "{message}");
    let message = refuse(&section("volume_driver = lvm"));
    assert!(message.contains("no such option"), "{message}");
    let message = refuse(&section("memory = 1G"));
    assert!(message.contains("move it to [DEFAULT]"), "{message}");

    accept(&section(
        "backup_workers = 8\nbackup_swift_url = http://x\nbackup_s3_timeout = 1",
    ));
    accept("[DEFAULT]\nmy_ip = 1\nbackup_use_same_host = true\n[x]\nbackup_driver = posix\n");
    accept("[nothing]\nbackup_nonsense = 1\n[x]\nbackup_driver = posix\n");
}

#[test]
fn drivers_are_known_by_three_names() {
    for name in [
        "cinder.backup.drivers.posix.PosixBackupDriver",
        "cinder.backup.drivers.posix",
        "posix",
    ] {
        accept(&format!("[DEFAULT]\nbackup_driver = {name}\n"));
    }
    for name in ["s3", "gcs"] {
        let message = refuse(&format!(
            "[x]\nbackup_driver = cinder.backup.drivers.{name}\n"
        ));
        assert!(
            message.contains("cinder.conf:2, [x] backup_driver"),
            "{message}"
        );
        assert!(
            message.contains(&format!("\"{name}\" is not built into")),
            "{message}"
        );
    }
    for name in [
        "",
        "posixx",
        "cinder.backup.drivers.posix.SwiftBackupDriver",
        "posix.",
    ] {
        let message = refuse(&format!("[x]\nbackup_driver = {name}\n"));
        assert!(message.contains("one of: posix"), "{message}");
    }
    let message = refuse("[x]\nbackup_driver = posx\n");
    assert!(message.contains("did you mean \"posix\"?"), "{message}");
}

#[test]
fn names_of_backends_are_folders_and_unique() {
    for name in [".hidden", "a/b", "..", "a\u{7}b", &"x".repeat(256)] {
        let message = refuse(&format!("[{name}]\nbackup_driver = posix\n"));
        assert!(message.contains("cinder.conf:1, ["), "{message}");
        assert!(message.contains("a backend is a folder"), "{message}");
    }
    let message = refuse("[posix]\nbackup_driver = posix\n[DEFAULT]\nbackup_driver = posix\n");
    assert!(message.contains("cinder.conf:1, [posix]"), "{message}");
    assert!(message.contains("another name"), "{message}");
    accept("[posix]\nbackup_driver = posix\n");
    accept("[größer als null]\nbackup_driver = posix\n");
}

#[test]
fn a_file_without_a_backend_says_what_to_add() {
    for text in ["", "[DEFAULT]\nstate_path = /s\n", "# nothing\n"] {
        let message = refuse(text);
        assert!(message.contains("cinder.conf: no section"), "{message}");
        assert!(
            message.contains("backup_driver = cinder.backup.drivers.posix"),
            "{message}"
        );
    }
}

#[test]
fn files_are_read_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cinder.conf");
    let missing = Config::load(&path).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.to_string().contains("cinder.conf"), "{missing}");

    std::fs::write(&path, "[DEFAULT]\nbackup_driver = posix\n").unwrap();
    assert_eq!(Config::load(&path).unwrap().backends[0].name, "posix");

    std::fs::write(&path, b"[DEFAULT]\nx = \xff\n").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.to_string().contains("cinder.conf:2: it is not UTF-8"),
        "{error}"
    );

    let error = Config::load(Path::new("/dev/zero")).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    assert!(Config::load(folder.path()).is_err());
}

#[test]
fn a_store_may_be_named_instead_of_a_file() {
    for (spec, path) in [
        ("/srv/backup", "/srv/backup"),
        ("posix:/srv/backup", "/srv/backup"),
        ("file:///srv/with%20blank", "/srv/with blank"),
        ("/srv/100% $HOME", "/srv/100% $HOME"),
    ] {
        let config = Config::from_store(spec).unwrap();
        let [backend] = config.backends.as_slice() else {
            panic!("{config:?}");
        };
        assert_eq!(backend.name, "local");
        assert_eq!(posix(backend).path, Path::new(path));
        assert_eq!(posix(backend).chunked.object_size, 1_999_994_880);
        assert_eq!(config.settings.memory, 256 << 20);
    }
    let here = std::env::current_dir().unwrap();
    for spec in ["backup", "posix:backup", "./backup"] {
        assert_eq!(place::parse_store(spec).unwrap(), here.join("backup"));
    }
    for spec in [
        "",
        "posix:",
        "file://",
        "file://host/x",
        "file:///a%2",
        "swift://x",
        "a\0b",
    ] {
        let error = place::parse_store(spec).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("file:///PATH"), "{error}");
    }
}

#[test]
fn homes_follow_the_xdg_specification() {
    let ada = homes(&[("HOME", "/home/ada")]);
    assert_eq!(
        ada.local_store().unwrap(),
        Path::new("/home/ada/.local/share/cinderfs")
    );
    assert_eq!(ada.spool(), Path::new("/home/ada/.cache/cinderfs"));

    let moved = homes(&[
        ("HOME", "/h"),
        ("XDG_DATA_HOME", "/data"),
        ("XDG_CACHE_HOME", "/cache"),
    ]);
    assert_eq!(moved.local_store().unwrap(), Path::new("/data/cinderfs"));
    assert_eq!(moved.spool(), Path::new("/cache/cinderfs"));

    let relative = homes(&[
        ("HOME", "/h"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CACHE_HOME", ""),
    ]);
    assert_eq!(
        relative.local_store().unwrap(),
        Path::new("/h/.local/share/cinderfs")
    );
    assert_eq!(relative.spool(), Path::new("/h/.cache/cinderfs"));

    let nobody = homes(&[("HOME", "")]);
    assert_eq!(nobody.spool(), Path::new("/var/tmp"));
    let error = nobody.local_store().unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("--store"), "{error}");
}
