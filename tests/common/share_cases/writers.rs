//! Two machines, as far as the server sees: two mounts of the share, each with a daemon.

use super::*;
use std::collections::BTreeMap;

/// What was written, by its name.
type Images = BTreeMap<String, Vec<u8>>;

/// A writer with a mount of its own: it keeps every third backup for a moment only.
fn write_many(lab: &Lab, mount: &Mount<'_>, who: u64, how_many: u64) -> Images {
    let mut kept = Images::new();
    let mut image = noise(20 + who, 300_000);
    for number in 0..how_many {
        let name = format!("{who}-{number}");
        let at = usize::try_from(number * 9_000).unwrap() % 250_000;
        image[at..at + 5_000].copy_from_slice(&noise(100 * who + number + 1, 5_000));
        let source = lab.source("source", &image);
        let folder = match number % 5 {
            0 => of(mount, ""),
            _ => of(mount, ".incremental"),
        };
        copy(&source, &folder.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}\n{}", lab.log()));
        kept.insert(name.clone(), image.clone());
        if number % 3 == 2 {
            let path = of(mount, &name);
            let removed = output(&mut command("rm", &["-f".into(), path]));
            let said = String::from_utf8_lossy(&removed.stderr).into_owned();
            match removed.status.success() {
                true => drop(kept.remove(&name)),
                // The other one builds on it.
                false => assert!(said.contains("busy"), "{name}: {said}"),
            }
        }
    }
    kept
}

/// Fifty backups of one volume by two of them, full and incremental, some deleted again:
/// each is whole, and none is lost.
pub fn two_writers_of_one_volume(server: &dyn FileServer) {
    const EACH: u64 = 25;
    let options = "backup_file_size = 65536\n";
    let share = server.new_share();
    let labs = [1, 2].map(|_| Lab::on_that_share(server, &share, options));
    let mut kept = Images::new();
    std::thread::scope(|scope| {
        let writing: Vec<_> = (0..)
            .zip(&labs)
            .map(|(who, lab)| {
                scope.spawn(move || {
                    let mount = lab.mount();
                    let kept = write_many(lab, &mount, who, EACH);
                    assert_eq!(mount.unmount(), 0);
                    kept
                })
            })
            .collect();
        for writing in writing {
            kept.extend(writing.join().unwrap());
        }
    });
    check_whole(&labs[0]);
    let expected: Vec<&String> = kept.keys().collect();
    for lab in &labs {
        let mount = lab.mount();
        let mut found = listed(lab, &mount);
        found.sort_unstable();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        for (name, image) in &kept {
            assert!(cat(&of(&mount, name)).unwrap() == *image, "{name} differs");
        }
        assert_eq!(mount.unmount(), 0);
    }
}
