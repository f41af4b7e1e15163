//! Restores and backups through the mount of a real Swift, against plain GETs and PUTs of
//! the same objects, four at a time, that are decoded and encoded on all cores; the same
//! with 50 ms on the way to each answer; and `ls -l` of a volume with 1,000 backups.

mod common;
#[path = "../tests/common/mod.rs"]
mod testing;

use common::{Bench, OBJECT_SIZE, ROUNDS, SHA_BLOCK, compare, dd, run, time};
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testing::proxy::Proxy;
use testing::swift::{Options, Swift};

/// Plain transfers at a time.
const PARALLEL: usize = 4;
const LATENCY: Duration = Duration::from_millis(50);
const LISTING_LATENCY: Duration = Duration::from_millis(20);
const BACKUPS: usize = 1000;

fn config(bench: &Bench, name: &str, auth_url: &str, compression: &str) -> PathBuf {
    let path = bench.path(&format!("{name}.conf"));
    let text = format!(
        "[bench]\nbackup_driver = swift\nbackup_swift_auth = single_user\n\
         backup_swift_auth_url = {auth_url}\nbackup_swift_user = test:tester\n\
         backup_swift_key = testing\nbackup_swift_container = {compression}\n\
         backup_swift_object_size = {OBJECT_SIZE}\n\
         backup_compression_algorithm = {compression}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Who transfers without the program.
struct Plain {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    token: String,
    storage_url: String,
}

impl Plain {
    fn log_in(auth_url: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([])
            .build()
            .unwrap();
        let login = client
            .get(auth_url)
            .header("X-Auth-User", "test:tester")
            .header("X-Auth-Key", "testing");
        let answer = runtime.block_on(login.send()).unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        Self {
            token: header("X-Auth-Token"),
            storage_url: header("X-Storage-Url"),
            client,
            runtime,
        }
    }

    fn names(&self, container: &str) -> Vec<String> {
        let url = format!("{}/{container}?prefix=volume_", self.storage_url);
        let listing = self.client.get(url).header("X-Auth-Token", &self.token);
        let text = self
            .runtime
            .block_on(async { listing.send().await.unwrap().text().await });
        let text = text.unwrap();
        text.lines()
            .filter(|name| common::is_chunk(Path::new(name)))
            .map(str::to_owned)
            .collect()
    }

    /// Runs `transfer` for each of so many objects, four at a time, and what it gives on as
    /// many threads as there are cores.
    fn on_all<T, F>(&self, count: usize, transfer: impl Fn(usize) -> F + Send + Sync + 'static)
    where
        F: Future<Output = T> + Send,
        T: FnOnce() + Send + 'static,
    {
        let cores = std::thread::available_parallelism().unwrap().get();
        let decoders = Arc::new(tokio::sync::Semaphore::new(cores));
        let next = Arc::new(AtomicUsize::new(0));
        let transfer = Arc::new(transfer);
        self.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..PARALLEL {
                let (next, transfer, decoders) = (next.clone(), transfer.clone(), decoders.clone());
                tasks.spawn(async move {
                    let mut decoding = tokio::task::JoinSet::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            break;
                        }
                        let work = transfer(index).await;
                        let core = decoders.clone().acquire_owned().await.unwrap();
                        decoding.spawn_blocking(move || {
                            work();
                            drop(core);
                        });
                    }
                    decoding.join_all().await;
                });
            }
            tasks.join_all().await;
        });
    }

    fn restore(&self, container: &str, names: &[String], compression: &'static str) {
        let (client, token) = (self.client.clone(), self.token.clone());
        let urls: Vec<String> = names
            .iter()
            .map(|name| format!("{}/{container}/{name}", self.storage_url))
            .collect();
        self.on_all(names.len(), move |index| {
            let get = client.get(&urls[index]).header("X-Auth-Token", &token);
            async move {
                let bytes = get.send().await.unwrap().bytes().await.unwrap();
                move || decode_and_hash(&bytes, compression)
            }
        });
    }

    fn back_up(&self, container: &str, image: &Arc<Vec<u8>>) {
        let (client, token) = (self.client.clone(), self.token.clone());
        let url = format!("{}/{container}/plain", self.storage_url);
        let image = Arc::clone(image);
        let count = image.len().div_ceil(OBJECT_SIZE);
        self.on_all(count, move |index| {
            let (image, client, token) = (Arc::clone(&image), client.clone(), token.clone());
            let url = format!("{url}-{index}");
            async move {
                let start = index * OBJECT_SIZE;
                let range = start..(start + OBJECT_SIZE).min(image.len());
                let packed = tokio::task::spawn_blocking(move || encode(&image[range]));
                let put = client.put(url).header("X-Auth-Token", token);
                let answer = put.body(packed.await.unwrap()).send().await.unwrap();
                assert!(answer.status().is_success());
                || ()
            }
        });
    }
}

fn decode_and_hash(stored: &[u8], compression: &str) {
    let mut data = Vec::new();
    let data = if compression == "zlib" && stored.starts_with(&[0x78]) {
        data.resize(OBJECT_SIZE, 0);
        let length = Decompressor::new().zlib_decompress(stored, &mut data);
        &data[..length.unwrap()]
    } else {
        stored
    };
    for block in data.chunks(SHA_BLOCK) {
        black_box(Sha256::digest(block));
    }
}

fn encode(chunk: &[u8]) -> Vec<u8> {
    for block in chunk.chunks(SHA_BLOCK) {
        black_box(Sha256::digest(block));
    }
    black_box(Md5::digest(chunk));
    let mut packed = vec![0; chunk.len() + (chunk.len() >> 8) + 1024];
    let mut compressor = Compressor::new(CompressionLvl::new(1).unwrap());
    let length = compressor.zlib_compress(chunk, &mut packed).unwrap();
    packed.truncate(length);
    packed
}

fn main() {
    let bench = Bench::new();
    let swift = Swift::start(&Options::default()).expect("a Swift");
    let auth_url = swift.auth_url();
    let plain = Plain::log_in(auth_url);
    let proxy = Proxy::start(swift.port());
    let far_url = auth_url.replace(&swift.port().to_string(), &proxy.port().to_string());
    let image = bench.image();
    let data = Arc::new(std::fs::read(&image).unwrap());
    let size = data.len() as u64;
    let null = Path::new("/dev/null");
    let rounds = Cell::new(0);
    for compression in ["zlib", "none"] {
        let near = config(&bench, "near", auth_url, compression);
        let far = config(&bench, "far", &far_url, compression);
        let back_up = |config: &Path| {
            let round = rounds.get() + 1;
            rounds.set(round);
            let mount = bench.mount(config);
            let volume = mount.folder.join(format!("bench/volume-{round}"));
            std::fs::create_dir(&volume).unwrap();
            dd(&image, &volume.join("image"))
        };
        back_up(&near);
        let names = plain.names(compression);
        let volume = format!("bench/volume-{}/image", rounds.get());
        let restore = |config: &Path| {
            let mount = bench.mount(config);
            dd(&mount.folder.join(&volume), null)
        };
        compare(
            &format!("restore, {compression}, against 4 plain GETs"),
            size,
            0.8,
            || time(|| plain.restore(compression, &names, compression)),
            || restore(&near),
        );
        proxy.set_latency(LATENCY);
        compare(
            &format!("restore, {compression}, 50 ms away, against near"),
            size,
            0.7,
            || restore(&near),
            || restore(&far),
        );
        proxy.set_latency(Duration::ZERO);
        if compression == "none" {
            continue;
        }
        compare(
            &format!("backup, {compression}, against 4 plain PUTs"),
            size,
            0.8,
            || time(|| plain.back_up(compression, &data)),
            || back_up(&near),
        );
        proxy.set_latency(LATENCY);
        compare(
            &format!("backup, {compression}, 50 ms away, against near"),
            size,
            0.7,
            || back_up(&near),
            || back_up(&far),
        );
        proxy.set_latency(Duration::ZERO);
    }
    list(&bench, &plain, &swift, &proxy);
}

fn list(bench: &Bench, plain: &Plain, swift: &Swift, proxy: &Proxy) {
    let far = |url: &str| url.replace(&swift.port().to_string(), &proxy.port().to_string());
    let near = config(bench, "near", swift.auth_url(), "zstd");
    let far_config = config(bench, "far", &far(swift.auth_url()), "zstd");
    let local = bench.path("local");
    std::fs::create_dir(&local).unwrap();
    {
        let mount = bench.mount(&near);
        let volume = mount.folder.join("bench/many");
        std::fs::create_dir(&volume).unwrap();
        for number in 0..BACKUPS {
            let name = format!("backup-{number:04}.img");
            std::fs::write(volume.join(&name), name.repeat(100)).unwrap();
            std::fs::write(local.join(&name), name.repeat(100)).unwrap();
        }
    }
    let ls = |folder: &Path| time(|| run(Command::new("ls").arg("-l").arg(folder)));
    proxy.set_latency(LISTING_LATENCY);
    // What a listing that is too old takes: it is asked for anew, once.
    let page = format!(
        "{}/zstd?format=json&delimiter=-0&prefix=volume_many/",
        far(&plain.storage_url)
    );
    let [mut cold, mut warm, mut files, mut request] = [Duration::MAX; 4];
    for _ in 0..ROUNDS {
        let mount = bench.mount(&far_config);
        let volume = mount.folder.join("bench/many");
        cold = cold.min(ls(&volume));
        warm = warm.min(ls(&volume));
        files = files.min(ls(&local));
        request = request.min(time(|| {
            let get = plain.client.get(&page).header("X-Auth-Token", &plain.token);
            let page = async { get.send().await.unwrap().bytes().await.unwrap() };
            black_box(plain.runtime.block_on(page));
        }));
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "ls -l of {BACKUPS} backups, 20 ms away: cold {:.0} ms (wanted 6000), warm {:.0} ms, \
         local files {:.0} ms, one request {:.0} ms (wanted {:.0})",
        milliseconds(cold),
        milliseconds(warm),
        milliseconds(files),
        milliseconds(request),
        milliseconds(files) * 1.2 + milliseconds(request),
    );
}
