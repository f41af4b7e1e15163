//! A store through many rounds, each of which ends with a kill.

use crate::VOLUMES;
use crate::common::library::Dice;
use crate::common::mount::{Lab, Mount, kill, names};
use crate::ledger::{Counts, Ledger};
use crate::worker::{Worker, lock};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Programs that use the mount at a time.
const WORKERS: u64 = 3;
/// The longest time before a kill, in microseconds: in a folder, and in a Swift.
const LONGEST_LIFE: u64 = 300_000;
const LONGEST_LIFE_IN_SWIFT: u64 = 1_500_000;

/// Options of the backend, but for what makes a parent fit.
pub fn settings(dice: &mut Dice, block: u64) -> String {
    let object = 262_144 << dice.below(3);
    let codecs = ["none", "zlib", "zlib", "zstd", "zstd", "bz2"];
    let codec = codecs[dice.below(codecs.len() as u64) as usize];
    format!(
        "backup_file_size = {object}\nbackup_sha_block_size_bytes = {block}\n\
         backup_compression_algorithm = {codec}\nmemory = 32MiB\n"
    )
}

/// See the module's page.
pub struct Story<'a> {
    pub lab: &'a Lab,
    pub ledger: Mutex<Ledger>,
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last operations:\n{}", lock(&self.ledger).last_words());
        }
    }
}

impl<'a> Story<'a> {
    pub fn new(lab: &'a Lab, ledger: Ledger) -> Self {
        let ledger = Mutex::new(ledger);
        Self { lab, ledger }
    }

    /// The daemon starts, and what is listed is what must be.
    pub fn mount(&self) -> Mount<'a> {
        let mount = self.lab.mount();
        self.check_listed(&mount);
        mount
    }

    /// What is listed is what must be, and byte for byte so.
    fn check_listed(&self, mount: &Mount<'_>) {
        for volume in VOLUMES {
            let folder = mount.volume(volume);
            let read = |name: String| {
                let bytes = fs::read(folder.join(&name));
                let bytes = bytes.unwrap_or_else(|e| panic!("{volume}/{name} is not whole: {e}"));
                (name, bytes)
            };
            let listed = names(&folder).into_iter().map(read).collect();
            lock(&self.ledger).settle(volume, listed);
        }
    }

    /// Lets programs work on a mount until its daemon is killed.
    pub fn kill_daemon(&mut self, dice: &mut Dice) {
        let mount = self.mount();
        lock(&self.ledger).tell("-- mounted".into());
        let (root, over) = (mount.path(self.lab.backend()), AtomicBool::new(false));
        let longest = match self.lab.is_on_swift() {
            false => LONGEST_LIFE,
            true => LONGEST_LIFE_IN_SWIFT,
        };
        let life = Duration::from_micros(dice.below(longest));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                let mut worker = self.worker(&root, &over, dice);
                scope.spawn(move || worker.work());
            }
            std::thread::sleep(life);
            kill(mount.pid(), libc::SIGKILL);
            over.store(true, Ordering::SeqCst);
        });
        lock(&self.ledger).tell("-- killed".into());
        mount.crash();
    }

    fn worker<'b>(&'b self, root: &Path, over: &'b AtomicBool, dice: &mut Dice) -> Worker<'b> {
        Worker {
            ledger: &self.ledger,
            dice: Dice(dice.next() | 1),
            root: root.to_owned(),
            over,
        }
    }

    /// The last look. Gives what was done.
    pub fn end(self) -> Counts {
        self.collect();
        let mount = self.mount();
        assert_eq!(mount.unmount(), 0);
        lock(&self.ledger).counts.clone()
    }
}
