//! Operations on what is open: written, cut, punched, read and closed.

use crate::LARGEST;
use crate::checks::check_read;
use crate::common::mount::{errno, names, wait_for};
use crate::world::{Open, World};
use rustix::fs::FallocateFlags;
use std::os::unix::fs::FileExt;
use std::time::Instant;

impl World<'_> {
    pub fn change(&mut self) {
        if !self.open.is_empty() {
            let number = self.dice.below(self.open.len() as u64) as usize;
            self.change_open(number);
        }
    }

    fn any_bytes(&mut self) -> Vec<u8> {
        let bound = if self.dice.below(3) == 0 {
            400_000
        } else {
            9000
        };
        let length = 1 + self.dice.below(bound) as usize;
        match self.dice.below(4) {
            0 => vec![0; length],
            1 => self.dice.noise(length),
            _ => self.dice.text(length),
        }
    }

    pub fn change_open(&mut self, number: usize) {
        let id = self.open[number].id;
        let size = self.files[id].data.len() as u64;
        let at = self.dice.below(LARGEST);
        let kind = self.dice.below(14);
        match kind {
            0..6 => {
                let at = if kind < 3 { size } else { at };
                if at > LARGEST {
                    return;
                }
                let bytes = self.any_bytes();
                self.tell(format!("write file {id} at {at}, {} bytes", bytes.len()));
                self.open[number].file.write_all_at(&bytes, at).unwrap();
                self.files[id].write(at as usize, &bytes);
            }
            6 | 7 => {
                let to = if kind == 6 {
                    at
                } else {
                    self.dice.below(size + 1)
                };
                self.tell(format!("truncate file {id} of {size} to {to}"));
                self.open[number].file.set_len(to).unwrap();
                self.files[id].data.resize(to as usize, 0);
                self.files[id].mtime = None;
            }
            8 | 9 => self.punch(number, at, kind == 8),
            10 => {
                self.tell(format!("fsync file {id}"));
                let expected = if self.files[id].is_too_small() {
                    libc::EINVAL
                } else {
                    0
                };
                assert_eq!(errno(self.open[number].file.sync_all()), expected);
                self.files[id].publish();
            }
            11 => {
                self.tell(format!("close a duplicate of file {id}"));
                drop(self.open[number].file.try_clone().unwrap());
                self.files[id].flush();
            }
            _ => self.read_open(number),
        }
        let length = self.open[number].file.metadata().unwrap().len();
        assert_eq!(
            length,
            self.files[id].data.len() as u64,
            "size of file {id}"
        );
    }

    fn punch(&mut self, number: usize, at: u64, keep: bool) {
        let id = self.open[number].id;
        let length = 1 + self.dice.below(500_000);
        self.tell(format!(
            "zero file {id} at {at}, {length} bytes, keep size {keep}"
        ));
        let flags = if keep {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        rustix::fs::fallocate(&self.open[number].file, flags, at, length).unwrap();
        let model = &mut self.files[id];
        let end = (at + length) as usize;
        if !keep && model.data.len() < end {
            model.data.resize(end, 0);
        }
        let end = end.min(model.data.len());
        if (at as usize) < end {
            model.data[at as usize..end].fill(0);
        }
        model.mtime = None;
    }

    fn read_open(&mut self, number: usize) {
        let id = self.open[number].id;
        self.tell(format!("read file {id}, which is open"));
        let at = self.dice.below(LARGEST);
        let length = self.dice.below(300_000) as usize;
        check_read(&self.open[number].file, &self.files[id].data, at, length);
    }

    pub fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let number = self.dice.below(self.open.len() as u64) as usize;
        self.close_open(number);
    }

    pub fn close_open(&mut self, number: usize) {
        let id = self.open[number].id;
        let model = &mut self.files[id];
        if model.is_too_small() && model.handles == 1 && !model.unlinked {
            let size = model.parent.unwrap().size;
            assert_eq!(errno(self.open[number].file.sync_all()), libc::EINVAL);
            // What was published before would stay, and what was written since be lost.
            if model.published || self.dice.below(2) == 0 {
                self.tell(format!("file {id} is made as large as its parent, {size}"));
                self.open[number].file.set_len(size as u64).unwrap();
                self.files[id].data.resize(size, 0);
                self.files[id].mtime = None;
            } else {
                return self.close_refused(number);
            }
        }
        let Open { file, id } = self.open.swap_remove(number);
        self.tell(format!("close file {id}"));
        drop(file);
        let model = &mut self.files[id];
        model.handles -= 1;
        model.flush();
        if model.handles > 0 {
            return;
        }
        model.closed = Some(Instant::now());
        if !model.published && !model.unlinked {
            // The kernel tells of the last close of an empty file a little later.
            model.publish();
            let (name, _) = self.names.iter().find(|(_, of)| **of == id).unwrap();
            let folder = self.volume_path(name.0);
            wait_for("the empty file", || {
                names(&folder).iter().any(|listed| listed == name.1)
            });
        }
    }

    /// What is closed, and can be no backup as it is, is not there any more.
    fn close_refused(&mut self, number: usize) {
        let Open { file, id } = self.open.swap_remove(number);
        self.tell(format!("close file {id}, which is too small"));
        drop(file);
        let model = &mut self.files[id];
        model.handles = 0;
        model.unlinked = true;
        let found = self.names.iter().find(|(_, of)| **of == id);
        let name = *found.unwrap().0;
        self.names.remove(&name);
        let path = self.path(name);
        wait_for("what is too small goes", || {
            errno(path.metadata()) == libc::ENOENT
        });
    }
}
