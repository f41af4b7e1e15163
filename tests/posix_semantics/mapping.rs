//! Files mapped into memory.

use crate::cat;
use crate::common::mount::{Lab, run, wait_for};
use crate::holes::holey_image;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// A file mapped into memory, for reading, or for writing as well.
struct Map {
    start: *mut libc::c_void,
    length: usize,
}

impl Map {
    fn new(file: &File, writable: bool) -> Self {
        let length = file.metadata().unwrap().len() as usize;
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: the kernel chooses the address; nothing of ours lies there.
        let start = unsafe {
            let (shared, none) = (libc::MAP_SHARED, std::ptr::null_mut());
            libc::mmap(none, length, protection, shared, file.as_raw_fd(), 0)
        };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self { start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped until it is dropped, and the file is not made shorter meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it is what was mapped, and no slice of it outlives it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

#[test]
fn files_can_be_mapped() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let mut image = holey_image();
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&image, 0).unwrap();
    let mut map = Map::new(&file, true);
    map.bytes()[5000..5005].copy_from_slice(b"hello");
    image[5000..5005].copy_from_slice(b"hello");
    drop((map, file));
    assert!(cat(&path) == image);
    let file = File::open(&path).unwrap();
    assert!(*Map::new(&file, false).bytes() == image);
}

#[test]
fn what_is_written_through_a_mapping_after_the_last_close_is_kept() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(file, b"a" * 8192)
at = libc.mmap(None, 8192, 3, 1, file, 0)
assert at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
os.close(file)
ctypes.memset(at, ord("b"), 4096)
assert libc.munmap(at, 8192) == 0
"#;
    run(std::process::Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(&path));
    let mut expected = vec![b'b'; 4096];
    expected.resize(8192, b'a');
    // The kernel writes the mapping back when it likes, and tells nobody.
    wait_for("the mapping is written back", || {
        fs::read(&path).is_ok_and(|read| read == expected)
    });
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(fs::read(mount.volume("v").join("a")).unwrap(), expected);
}
