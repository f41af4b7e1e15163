//! The kernel's side of a mount: requests translated to calls of the tree, its answers
//! to replies and error numbers. No decision about files is made here.

mod adapter;
mod errno;
mod session;
mod translate;

pub use errno::errno_of;
pub use session::{MountOptions, Mounted, mount, unmount};
