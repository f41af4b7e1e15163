//! `ls -l` of a volume with 1,000 backups, cold and warm, against a local folder with as
//! many files.

mod common;

use common::{Bench, run, time};
use std::process::Command;
use std::time::Duration;

const BACKUPS: usize = 1000;

fn main() {
    let bench = Bench::new();
    let config = bench.config("store", "zlib");
    let local = bench.path("local");
    std::fs::create_dir(&local).unwrap();
    {
        let mount = bench.mount(&config);
        let volume = mount.folder.join("bench/volume");
        std::fs::create_dir(&volume).unwrap();
        for number in 0..BACKUPS {
            let name = format!("backup-{number:04}.img");
            std::fs::write(volume.join(&name), name.repeat(100)).unwrap();
            std::fs::write(local.join(&name), name.repeat(100)).unwrap();
        }
    }
    let ls = |folder: &std::path::Path| time(|| run(Command::new("ls").arg("-l").arg(folder)));
    let mut cold = Duration::MAX;
    let mut warm = Duration::MAX;
    let mut plain = Duration::MAX;
    for _ in 0..common::ROUNDS {
        let mount = bench.mount(&config);
        let volume = mount.folder.join("bench/volume");
        cold = cold.min(ls(&volume));
        warm = warm.min(ls(&volume));
        plain = plain.min(ls(&local));
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "ls -l of {BACKUPS} backups: cold {:.0} ms, warm {:.0} ms   reference, local files {:.0} ms   ratio {:.2} cold, {:.2} warm",
        milliseconds(cold),
        milliseconds(warm),
        milliseconds(plain),
        plain.as_secs_f64() / cold.as_secs_f64(),
        plain.as_secs_f64() / warm.as_secs_f64(),
    );
}
