//! Operations on names: volumes and files are made, opened, renamed, deleted.

use crate::common::mount::{errno, wait_for};
use crate::file::{ModelFile, Parent, Reopens};
use crate::world::{Open, World};
use crate::{FOLDERS, MAX_CHAIN};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use std::fs::{self, File, OpenOptions};

impl World<'_> {
    pub fn make_volume(&mut self) {
        let volume = self.any_volume();
        let expected = if self.has(volume) { libc::EEXIST } else { 0 };
        self.tell(format!("mkdir {volume}"));
        assert_eq!(errno(fs::create_dir(self.volume_path(volume))), expected);
        if expected == 0 {
            self.volumes.push(volume);
        }
    }

    pub fn remove_volume(&mut self) {
        let volume = self.any_volume();
        let expected = if !self.has(volume) {
            libc::ENOENT
        } else if self.names.keys().any(|(of, _)| *of == volume) {
            libc::ENOTEMPTY
        } else {
            0
        };
        self.tell(format!("rmdir {volume}"));
        assert_eq!(errno(fs::remove_dir(self.volume_path(volume))), expected);
        if expected == 0 {
            self.volumes.retain(|other| *other != volume);
        }
    }

    pub fn create(&mut self) {
        let name = self.any_name();
        let folder = FOLDERS[self.dice.below(FOLDERS.len() as u64) as usize];
        let may_have_parent = match folder {
            "" => self.is_auto,
            folder => folder == ".incremental",
        };
        let mut parent = None;
        let expected = if !self.has(name.0) {
            libc::ENOENT
        } else if self.names.contains_key(&name) {
            libc::EEXIST
        } else {
            if may_have_parent {
                parent = self.parent_in(name.0, folder.is_empty());
            }
            let is_refused = folder == ".incremental" && parent.is_none();
            if is_refused { libc::EINVAL } else { 0 }
        };
        let id = self.files.len();
        self.tell(format!(
            "create {name:?} in {folder:?} on {parent:?} -> file {id}"
        ));
        let path = self.volume_path(name.0).join(folder).join(name.1);
        match File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
        {
            Ok(file) => {
                assert_eq!(expected, 0);
                self.files.push(ModelFile {
                    handles: 1,
                    volume: name.0,
                    parent,
                    ..ModelFile::default()
                });
                self.names.insert(name, id);
                self.open.push(Open { file, id });
                for _ in 0..self.dice.below(6) {
                    self.change_open(self.open.len() - 1);
                }
            }
            Err(e) => assert_eq!(e.raw_os_error(), Some(expected)),
        }
    }

    /// What a new file of a volume is built on: the newest that is closed, which thereby
    /// becomes a record.
    fn parent_in(&mut self, volume: &str, is_wished: bool) -> Option<Parent> {
        let mut newest = None;
        for id in 0..self.files.len() {
            let file = &mut self.files[id];
            if file.volume == volume && !file.unlinked && file.handles == 0 {
                file.closed = None;
                newest = Some(id);
            }
        }
        let id = newest?;
        let parent = Parent {
            id,
            size: self.files[id].data.len(),
            is_wished,
        };
        (!is_wished || self.depth(id) < MAX_CHAIN).then_some(parent)
    }

    fn depth(&self, id: usize) -> usize {
        match self.files[id].parent {
            Some(parent) => self.depth(parent.id) + 1,
            None => 0,
        }
    }

    /// Whether anything is built on a file, that is there or is being written.
    fn is_parent(&self, id: usize) -> bool {
        let child = |file: &ModelFile| {
            let is_there = !file.unlinked || file.handles > 0;
            is_there && file.parent.is_some_and(|parent| parent.id == id)
        };
        self.files.iter().any(child)
    }

    /// Opens what is there for writing, as qemu-img does.
    pub fn reopen(&mut self) {
        let name = self.likely_name();
        let truncate = self.dice.below(4) == 0;
        self.tell(format!("open {name:?} for writing, truncate {truncate}"));
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .write(true)
            .truncate(truncate)
            .open(self.path(name));
        let Some(id) = self.names.get(&name).copied() else {
            assert_eq!(errno(opened), libc::ENOENT);
            return;
        };
        let model = &mut self.files[id];
        match (opened, model.reopens()) {
            (Ok(file), Reopens::Yes | Reopens::Perhaps) => {
                model.handles += 1;
                if truncate {
                    model.mtime = None;
                    model.data.clear();
                }
                self.open.push(Open { file, id });
            }
            (Err(e), Reopens::No | Reopens::Perhaps) => {
                let refused = [Some(libc::EPERM), Some(libc::EACCES)];
                assert!(refused.contains(&e.raw_os_error()), "{e}");
                model.closed = None;
            }
            (result, expected) => {
                panic!("file {id}: {:?}, but reopens: {expected:?}", result.err())
            }
        }
    }

    pub fn rename(&mut self) {
        let from = self.likely_name();
        let to = if self.dice.below(4) == 0 {
            self.any_name()
        } else {
            (from.0, self.any_name().1)
        };
        self.tell(format!("rename {from:?} to {to:?}"));
        let expected = if !self.names.contains_key(&from) || !self.has(to.0) {
            libc::ENOENT
        } else if from == to {
            0
        } else if from.0 != to.0 {
            libc::EXDEV
        } else if self.names.contains_key(&to) {
            libc::EEXIST
        } else {
            0
        };
        assert_eq!(errno(fs::rename(self.path(from), self.path(to))), expected);
        if expected == 0 {
            let id = self.names.remove(&from).unwrap();
            self.names.insert(to, id);
        }
    }

    pub fn unlink(&mut self) {
        let name = self.likely_name();
        self.tell(format!("unlink {name:?}"));
        let expected = match self.names.get(&name) {
            None => libc::ENOENT,
            Some(id) if self.is_parent(*id) => libc::EBUSY,
            Some(_) => 0,
        };
        let path = self.path(name);
        let removed = errno(fs::remove_file(&path));
        if expected == 0 && removed == libc::EBUSY {
            // Of a child that is gone the kernel tells a little later that it was closed.
            wait_for("nothing is built on it", || fs::remove_file(&path).is_ok());
        } else {
            assert_eq!(removed, expected);
        }
        if expected == 0 {
            let id = self.names.remove(&name).unwrap();
            self.files[id].unlinked = true;
        }
    }

    pub fn set_time(&mut self) {
        let name = self.likely_name();
        let (tv_sec, tv_nsec) = (
            self.dice.below(8_000_000_000) as i64 - 4_000_000_000,
            self.dice.below(1_000_000_000) as i64,
        );
        self.tell(format!("utimens {name:?} {tv_sec}.{tv_nsec:09}"));
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec { tv_sec, tv_nsec },
        };
        let flags = rustix::fs::AtFlags::empty();
        let set = rustix::fs::utimensat(rustix::fs::CWD, self.any_path(name), &times, flags);
        let Some(id) = self.names.get(&name) else {
            assert_eq!(set, Err(rustix::io::Errno::NOENT));
            return;
        };
        set.unwrap();
        self.files[*id].mtime = Some((tv_sec, tv_nsec));
    }
}
