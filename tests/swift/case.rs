//! What the tests here have in common: an account behind a proxy, and images.

use crate::common::mount::{Lab, Mount, command, output, run, shell};
use crate::common::proxy::Proxy;
use crate::common::swift::{Account, Client, Swift};
use std::path::Path;
use std::process::Output;

/// Small objects, so that small images have many, and no waiting where waiting is not what
/// is tested.
pub const SMALL: &str = "backup_swift_object_size = 1048576\nbackup_swift_retry_backoff = 0\n";

/// The same, and little patience with servers.
pub const IMPATIENT: &str = "backup_swift_object_size = 1048576\n\
                             backup_swift_retry_backoff = 0\nrequest_timeout = 2\n";

/// Every question goes to the store.
pub const NO_TTL: &str = "list_ttl = 0\n";

pub const CONTAINER: &str = "volumebackups";
pub const VOLUME: &str = "5f0c2b1e-8b1f-4c58-a1a4-0c6f5f1f2a01";

/// An account of its own, behind a proxy of its own.
pub struct Case {
    pub proxy: Proxy,
    /// By way of the proxy.
    pub account: Account,
    /// Past it.
    pub client: Client,
    pub lab: Lab,
}

impl Case {
    /// On the shared Swift. None when it is left out.
    pub fn new(options: &str) -> Option<Self> {
        Some(Self::on(Swift::shared()?, options))
    }

    pub fn on(swift: &Swift, options: &str) -> Self {
        let direct = swift.account();
        let proxy = Proxy::start(swift.port());
        let account = direct.by_way_of(&proxy);
        Self {
            lab: Lab::on_swift(&account, options),
            client: direct.client(),
            account,
            proxy,
        }
    }

    /// With an image of that many bytes as the finished backup `image` of the volume, and
    /// the file that it was copied from.
    pub fn with_backup(options: &str, length: usize) -> Option<(Self, Vec<u8>)> {
        let case = Self::new(options)?;
        let data = noise(1, length);
        let source = case.lab.source("source", &data);
        let mount = case.lab.mount();
        must_copy(&source, &mount.volume(VOLUME).join("image"));
        assert_eq!(mount.unmount(), 0);
        case.proxy.take_requests();
        Some((case, data))
    }

    /// The names of all objects.
    pub fn objects(&self) -> Vec<String> {
        match self.client.containers().contains(&CONTAINER.to_owned()) {
            true => self.client.list(CONTAINER, ""),
            false => Vec::new(),
        }
    }
}

/// Bytes that no codec makes smaller.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

/// The file of the backup that [`Case::with_backup`] has made.
pub fn image(mount: &Mount<'_>) -> std::path::PathBuf {
    mount.root().join("swift").join(VOLUME).join("image")
}

pub fn must_copy(from: &Path, to: &Path) {
    run(&mut command("cp", &[from, to]));
}

/// Copies, and gives what cp says and how it ends.
pub fn copy(from: &Path, to: &Path) -> Output {
    output(&mut command("cp", &[from, to]))
}

/// Reads a file as another program does. The error is what that says.
pub fn cat(path: &Path) -> Result<Vec<u8>, String> {
    let output = output(&mut shell(r#"exec timeout 60 cat "$1""#, &[path]));
    match output.status.success() {
        true => Ok(output.stdout),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_ne!(output.status.code(), Some(124), "cat did not end: {said}");
            Err(said)
        }
    }
}
