//! What the mount shows, and what lies in the store, is what the model says.

use crate::common::mount::{errno, names, seek};
use crate::common::store_check::{Expected, Stored, read_store};
use crate::world::World;
use crate::{LARGEST, OBJECT};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

impl World<'_> {
    pub fn look_at_file(&mut self) {
        let name = self.likely_name();
        self.tell(format!("read {name:?}"));
        let (at, length) = (self.dice.below(LARGEST), self.dice.below(400_000) as usize);
        let opened = File::open(self.any_path(name));
        let Some(id) = self.names.get(&name).copied() else {
            assert_eq!(errno(opened), libc::ENOENT);
            return;
        };
        let file = opened.unwrap();
        let model = &self.files[id];
        check_read(&file, &model.data, at, length);
        check_holes(&file, &model.data, at);
        self.check_stat(name, id);
    }

    fn check_stat(&self, name: (&str, &str), id: usize) {
        let stat = self.path(name).symlink_metadata().unwrap();
        let model = &self.files[id];
        assert_eq!(stat.len(), model.data.len() as u64, "size of {name:?}");
        assert_eq!(stat.nlink(), 1);
        if let Some(mtime) = model.mtime {
            assert_eq!((stat.mtime(), stat.mtime_nsec()), mtime, "time of {name:?}");
        }
    }

    pub fn list(&mut self) {
        self.tell("list".to_owned());
        let root = self.root();
        let mut volumes: Vec<&str> = self.volumes.clone();
        volumes.sort_unstable();
        assert_eq!(names(&root), volumes);
        for volume in volumes {
            let of_volume = self.names.iter().filter(|((of, _), _)| *of == volume);
            let listed = of_volume.filter(|(_, id)| self.files[**id].published);
            let mut expected: Vec<&str> = listed.map(|((_, name), _)| *name).collect();
            expected.sort_unstable();
            assert_eq!(names(&self.volume_path(volume)), expected, "in {volume}");
        }
    }

    pub fn check_all(&mut self) {
        self.list();
        for (name, id) in &self.names {
            let data = fs::read(self.path(*name)).unwrap();
            assert!(
                data == self.files[*id].data,
                "content of {name:?}, file {id}"
            );
            self.check_stat(*name, *id);
        }
    }

    /// What lies in the store is what Cinder would have written of the same images.
    pub fn check_store(&self) {
        let all = read_store(&self.lab.store());
        assert_eq!(all.len(), self.names.len());
        let expected = Expected {
            object_size: OBJECT,
            compression: "zlib",
        };
        let find = |backup: &Stored| {
            let name = backup.name.clone().unwrap();
            let found = self
                .names
                .iter()
                .find(|((volume, file), _)| *volume == backup.volume && *file == name);
            *found.unwrap().1
        };
        for backup in &all {
            let model = &self.files[find(backup)];
            let source = self.lab.source("expected", &model.data);
            let parent = backup.parent().map(|id| {
                let parent = all.iter().find(|one| one.id == id);
                find(parent.unwrap())
            });
            assert_eq!(parent, model.parent.map(|parent| parent.id));
            match parent {
                None => backup.check(expected, &source),
                Some(parent) => {
                    let parent = self.lab.source("parent", &self.files[parent].data);
                    backup.check_on(expected, &parent, &source);
                }
            }
        }
    }
}

pub fn check_read(file: &File, data: &[u8], at: u64, length: usize) {
    let mut read = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file
            .read_at(&mut read[filled..], at + filled as u64)
            .unwrap()
        {
            0 => break,
            some => filled += some,
        }
    }
    let start = (at as usize).min(data.len());
    let end = (start + length).min(data.len());
    assert_eq!(filled, end - start, "bytes at {at}");
    assert!(
        read[..filled] == data[start..end],
        "data at {at} for {length}"
    );
}

/// What is called a hole is zero, and all that is not zero is called data.
fn check_holes(file: &File, data: &[u8], at: u64) {
    let size = data.len() as u64;
    let (next_data, next_hole) = (seek(file, at, false), seek(file, at, true));
    if at >= size {
        assert_eq!((next_data, next_hole), (Err(libc::ENXIO), Err(libc::ENXIO)));
        return;
    }
    let end_of_hole = match next_data {
        Ok(next) => next,
        Err(number) => {
            assert_eq!(number, libc::ENXIO);
            size
        }
    };
    assert!(end_of_hole >= at && end_of_hole <= size);
    let hole = &data[at as usize..end_of_hole as usize];
    assert!(
        hole.iter().all(|byte| *byte == 0),
        "data in the hole from {at} to {end_of_hole}"
    );
    let next_hole = next_hole.unwrap();
    assert!(next_hole >= at && next_hole <= size);
    assert!(
        next_hole == at || end_of_hole == at,
        "neither data nor hole at {at}"
    );
}
