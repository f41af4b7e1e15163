//! A server that stands still while a backup is published: what was given up is done
//! later, or is not, and neither harms.

use super::*;
use crate::common::mount::write;
use std::time::Instant;

/// When the server is let stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The list of hashes is being stored.
    Hashes,
    /// The list of hashes is there, and the metadata are not.
    BeforeMetadata,
    /// The metadata are being stored.
    DuringMetadata,
    /// The metadata are there, and nobody has heard of it.
    Metadata,
}

impl Moment {
    /// Whether it has come, by the names of what the server has.
    fn has_come(self, names: &[String]) -> bool {
        let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
        let staged = names
            .iter()
            .any(|name| name.starts_with(".cinderfs-stage-"));
        match self {
            Self::Hashes => chunks_in(names) == 2 && staged,
            Self::BeforeMetadata => ends("_sha256file"),
            Self::DuringMetadata => ends("_sha256file") && staged,
            Self::Metadata => ends("_metadata"),
        }
    }
}

fn chunks_in(names: &[String]) -> usize {
    names.iter().filter(|name| name.contains("-0000")).count()
}

/// The names of all files of a store, without a program of its own.
fn all_names(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all_names(&entry.path(), found),
            _ => found.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
}

/// Whenever it is: the backup is there whole, or it is not there, whatever its writer was
/// told; it can be deleted, and written again.
pub fn what_was_given_up_while_publishing_harms_nothing(server: &dyn FileServer) {
    let lab = Lab::on_share(server, &impatient(server));
    let data = noise(8, 2 * MIB);
    let mount = lab.mount();
    let path = of(&mount, "image");
    for moment in [
        Moment::Hashes,
        Moment::BeforeMetadata,
        Moment::DuringMetadata,
        Moment::Metadata,
        Moment::BeforeMetadata,
        Moment::DuringMetadata,
    ] {
        let outcome = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut writer = Writer::new(&path);
                writer.feed(&data);
                writer.end()
            });
            let began = Instant::now();
            while !writing.is_finished() && began.elapsed().as_secs() < 60 {
                let mut names = Vec::new();
                all_names(&lab.store(), &mut names);
                if moment.has_come(&names) {
                    break;
                }
            }
            server.pause();
            writing.join().unwrap()
        });
        let mut there = Vec::new();
        all_names(&lab.store(), &mut there);
        let was_there = there.iter().any(|name| name.ends_with("_metadata"));
        println!("{moment:?}: published {was_there}, told {outcome:?}");
        if let Err(said) = &outcome {
            assert!(said.contains("Input/output error"), "{said}");
        }
        server.resume();
        wait_for("the share answers", || {
            status(&mount, lab.backend()).0 == "available"
        });
        if outcome.is_ok() {
            assert!(
                was_there,
                "{moment:?}: what was never published is said to be"
            );
            assert!(cat(&path).unwrap() == data, "{moment:?}");
        }
        // Listed or not, and either for good.
        let is_listed = || fs::metadata(&path).is_ok();
        if is_listed() {
            assert!(cat(&path).unwrap() == data, "{moment:?}");
            check_whole(&lab);
            run(&mut command("rm", &[&path]));
        }
        assert!(!is_listed());
        write(&path, &data);
        assert!(cat(&path).unwrap() == data);
        check_whole(&lab);
        let other = lab.mount_with("other", "");
        assert_eq!(listed(&lab, &other), ["image"], "{moment:?}");
        let again = known(&lab, &other, "image");
        assert!(cat(&again).unwrap() == data);
        assert_eq!(other.unmount(), 0);
        run(&mut command("rm", &[&path]));
        let config = lab.config();
        let arguments = ["gc", "--delete", "--older-than", "0", "--config"];
        run(lab.cinderfs(&arguments).arg(&config));
        let mut left = Vec::new();
        all_names(&lab.store(), &mut left);
        assert_eq!(left, [""; 0], "{moment:?}");
    }
    assert_eq!(mount.unmount(), 0);
}
