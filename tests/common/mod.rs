//! What several tests need.

#[allow(dead_code, reason = "each test uses a part of it")]
pub mod calls;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod ceph;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod cinder;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod device;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod dsmc;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod glusterfs;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod golden;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod judge;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod library;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod machine;
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test uses a part of it"
)]
pub mod mount;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod nfs;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod programs;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod proxy;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod server;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod share;
#[allow(dead_code, reason = "each test uses a part of it")]
pub mod store_check;
#[allow(dead_code, unused_imports, reason = "each test uses a part of it")]
pub mod swift;
