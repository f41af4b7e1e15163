//! A mount with the model of it, and the choice of what is done next.

use crate::common::library::Dice;
use crate::common::mount::{Lab, Mount};
use crate::file::ModelFile;
use crate::{FILES, FOLDERS, VOLUMES};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

pub struct Open {
    pub file: File,
    pub id: usize,
}

pub struct World<'a> {
    pub lab: &'a Lab,
    pub mount: Option<Mount<'a>>,
    pub dice: Dice,
    /// Folders, by name.
    pub volumes: Vec<&'static str>,
    pub names: BTreeMap<(&'static str, &'static str), usize>,
    pub files: Vec<ModelFile>,
    pub open: Vec<Open>,
    /// Whether what is written into a volume's own folder may be an increment.
    pub is_auto: bool,
    /// What was done, for who has to find out why it went wrong.
    story: Vec<String>,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.open.clear();
        if std::thread::panicking() {
            eprintln!("the last operations:");
            for line in self.story.iter().rev().take(100).rev() {
                eprintln!("  {line}");
            }
        }
    }
}

impl<'a> World<'a> {
    pub fn new(lab: &'a Lab, seed: u64, is_auto: bool) -> Self {
        Self {
            lab,
            mount: Some(lab.mount()),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            volumes: Vec::new(),
            names: BTreeMap::new(),
            files: Vec::new(),
            open: Vec::new(),
            is_auto,
            story: Vec::new(),
        }
    }

    pub fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    pub fn volume_path(&self, volume: &str) -> PathBuf {
        self.root().join(volume)
    }

    /// The folder of the backend.
    pub fn root(&self) -> PathBuf {
        self.mount.as_ref().unwrap().path(self.lab.backend())
    }

    pub fn path(&self, (volume, name): (&str, &str)) -> PathBuf {
        self.volume_path(volume).join(name)
    }

    /// The same file, by the way through any folder by which it is found.
    pub fn any_path(&mut self, (volume, name): (&str, &str)) -> PathBuf {
        let folder = FOLDERS[self.dice.below(FOLDERS.len() as u64) as usize];
        self.volume_path(volume).join(folder).join(name)
    }

    pub fn any_volume(&mut self) -> &'static str {
        VOLUMES[self.dice.below(VOLUMES.len() as u64) as usize]
    }

    pub fn any_name(&mut self) -> (&'static str, &'static str) {
        let volume = self.any_volume();
        (volume, FILES[self.dice.below(FILES.len() as u64) as usize])
    }

    /// Mostly a file that is there.
    pub fn likely_name(&mut self) -> (&'static str, &'static str) {
        let count = self.names.len() as u64;
        if count == 0 || self.dice.below(8) == 0 {
            return self.any_name();
        }
        let number = self.dice.below(count) as usize;
        *self.names.keys().nth(number).unwrap()
    }

    pub fn has(&self, volume: &str) -> bool {
        self.volumes.contains(&volume)
    }

    pub fn step(&mut self) {
        match self.dice.below(100) {
            0..6 => self.make_volume(),
            6..9 => self.remove_volume(),
            9..24 => self.create(),
            24..32 => self.reopen(),
            32..62 => self.change(),
            62..70 => self.close(),
            70..76 => self.rename(),
            76..80 => self.unlink(),
            80..84 => self.set_time(),
            84..95 => self.look_at_file(),
            95..98 => self.list(),
            _ => self.remount(),
        }
    }

    pub fn remount(&mut self) {
        while !self.open.is_empty() {
            self.close_open(0);
        }
        self.tell("remount".to_owned());
        assert_eq!(self.mount.take().unwrap().unmount(), 0);
        self.mount = Some(self.lab.mount());
        for file in &mut self.files {
            file.closed = None;
        }
        let names = &self.names;
        self.volumes
            .retain(|volume| names.keys().any(|(of, _)| of == volume));
        self.check_all();
    }
}
