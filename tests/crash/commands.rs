//! Commands that work on a store, several at a time, until they are killed.

use crate::VOLUMES;
use crate::common::library::Dice;
use crate::common::mount::kill;
use crate::ledger::{Image, Listed};
use crate::round::Story;
use crate::worker::{CROWDED, any_image, lock};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

/// The longest time before a kill, in microseconds.
const LONGEST_LIFE: u64 = 200_000;
/// What `cinderfs rm` says of a backup that has to stay.
const STAYS: &str = "built on it";
/// What `cinderfs backup --incremental` says when it finds no parent.
const NO_PARENT: &str = "make a full backup";

/// What a command was to do.
enum Errand {
    BackUp(u64, Image),
    Remove(u64),
    Collect,
}

impl Story<'_> {
    /// Lets commands work until they are killed. Whether any was still at it.
    pub fn kill_commands(&mut self, dice: &mut Dice) -> bool {
        self.mount().crash();
        lock(&self.ledger).tell("-- commands".into());
        let count = 1 + dice.below(3);
        let mut running: Vec<(Errand, Child)> =
            (0..count).filter_map(|_| self.start_any(dice)).collect();
        // Mostly short: many are done after the half of it.
        let life = dice.below(LONGEST_LIFE) * dice.below(100) / 100;
        std::thread::sleep(Duration::from_micros(life));
        for (_, child) in &running {
            kill(child.id(), libc::SIGKILL);
        }
        let mut killed = false;
        for (errand, child) in running.drain(..) {
            killed |= self.hear(errand, child);
        }
        killed
    }

    fn start_any(&mut self, dice: &mut Dice) -> Option<(Errand, Child)> {
        let volume = VOLUMES[dice.below(VOLUMES.len() as u64) as usize];
        let crowded = lock(&self.ledger).of_volume(volume).count() >= CROWDED;
        match dice.below(8) {
            0..4 if !crowded => Some(self.start_backup(volume, dice)),
            0..7 => self.start_removal(volume, dice),
            _ => Some((
                Errand::Collect,
                self.start(&["gc", "--older-than", "0", "--delete"]),
            )),
        }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        lock(&self.ledger).tell(format!("{arguments:?}"));
        let config = self.lab.config();
        let mut all = vec![arguments[0], "--config", config.to_str().unwrap()];
        all.extend(&arguments[1..]);
        self.lab.start_command(&all)
    }

    fn start_backup(&mut self, volume: &'static str, dice: &mut Dice) -> (Errand, Child) {
        let incremental = dice.below(2) == 0;
        let (number, name, image) = {
            let mut ledger = lock(&self.ledger);
            let least = if incremental {
                ledger.longest(volume)
            } else {
                1
            };
            let image = any_image(dice, ledger.newest(volume).as_deref(), least);
            let (number, name) = ledger.begin(volume, image.len(), incremental);
            let image = Arc::new(image);
            ledger.publish(number, &image);
            ledger.counts.publishing_killed += 1;
            (number, name, image)
        };
        let source = self.lab.source(&format!("source-{number}"), &image);
        let basis = if incremental {
            "--incremental"
        } else {
            "--full"
        };
        let target = format!("{}/{volume}", self.lab.backend());
        let child = self.start(&[
            "backup",
            "--quiet",
            basis,
            "--name",
            &name,
            source.to_str().unwrap(),
            &target,
        ]);
        (Errand::BackUp(number, image), child)
    }

    fn start_removal(&mut self, volume: &'static str, dice: &mut Dice) -> Option<(Errand, Child)> {
        let (number, target) = {
            let mut ledger = lock(&self.ledger);
            let idle = ledger.idle(volume);
            let back = dice.below(4) * dice.below(2);
            let number = *idle.iter().rev().nth(back as usize).or(idle.last())?;
            ledger.counts.deleting_killed += 1;
            let record = ledger.get(number);
            (record.busy, record.listed) = (true, Listed::Perhaps);
            (
                number,
                format!("{}/{volume}/{}", self.lab.backend(), record.names[0]),
            )
        };
        Some((Errand::Remove(number), self.start(&["rm", &target])))
    }

    /// What a command said, unless it was killed. Whether it was.
    fn hear(&mut self, errand: Errand, child: Child) -> bool {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if let Errand::BackUp(number, _) = errand {
            let _ = fs::remove_file(self.lab.path(&format!("source-{number}")));
        }
        if output.status.signal() == Some(libc::SIGKILL) {
            return true;
        }
        let mut ledger = lock(&self.ledger);
        let done = output.status.success();
        ledger.tell(format!("ended: {}: {said}", output.status));
        match errand {
            Errand::BackUp(number, image) => {
                ledger.counts.publishing_killed -= 1;
                match done {
                    true => ledger.published(number, &image),
                    false => {
                        assert!(said.contains(NO_PARENT), "backup {number}: {said}");
                        ledger.forget(number);
                    }
                }
            }
            Errand::Remove(number) => {
                ledger.counts.deleting_killed -= 1;
                if done {
                    ledger.counts.deleted += 1;
                    ledger.forget(number);
                } else {
                    assert!(said.contains(STAYS), "rm {number}: {said}");
                    ledger.counts.refused += 1;
                    ledger.get(number).listed = Listed::Yes;
                }
            }
            Errand::Collect => assert!(done, "gc: {said}"),
        }
        false
    }
}
