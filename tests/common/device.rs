//! Loop devices and what is mounted on them. Whatever a test does, none is left behind.

use super::mount::{command, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over a file.
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    /// Over `file`, with further arguments for losetup(8).
    pub fn over(file: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["-f", "--show"];
        all.extend(arguments);
        let path = file.display().to_string();
        all.push(&path);
        let device = run(&mut command("losetup", &all));
        Self(PathBuf::from(device.trim()))
    }

    /// Over a new file of `length` bytes, all of them `fill`.
    pub fn filled(file: &Path, length: usize, fill: u8) -> Self {
        std::fs::write(file, vec![fill; length]).unwrap();
        Self::over(file, &[])
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// As a word of a command line.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}

/// A mounted file system.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts `device` on a new folder.
    pub fn on(device: &Path, folder: &Path) -> Self {
        Self::with("rw", device, folder)
    }

    /// The same, with mount options.
    pub fn with(options: &str, device: &Path, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let paths = [device, folder].map(Path::as_os_str);
        let mut all = vec!["-o".as_ref(), options.as_ref()];
        all.extend(paths);
        run(&mut command("mount", &all));
        Self(folder.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}
