//! Objects by the hundred thousand, of which only their container knows: listings are as
//! real as can be, and the bytes are not there. A container server is told of them as by
//! another one that has a copy of the same container.

use crate::common::swift::{Client, Http, Swift};
use md5::{Digest, Md5};
use serde_json::json;

/// Rows of one request.
const AT_ONCE: usize = 20_000;

/// Adds objects of these names, 1 MiB each.
pub fn add(swift: &Swift, client: &Client, container: &str, names: &[String]) {
    let (_, account) = client.storage_url.split_once("/v1/").unwrap();
    // ../services/swift/serve.py: prefix and suffix are `test`, and there are 4 partitions.
    let hash = Md5::digest(format!("test/{account}/{container}test"));
    let partition = hash[0] >> 6;
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let conf = std::fs::read_to_string(swift.server.folder().join("container.conf")).unwrap();
    let port = conf
        .lines()
        .find_map(|line| line.strip_prefix("bind_port = "));
    let url = format!(
        "http://127.0.0.1:{}/d1/{partition}/{hash}",
        port.unwrap().trim()
    );
    let http = Http::new(None);
    for names in names.chunks(AT_ONCE) {
        let row = |(number, name): (usize, &String)| {
            json!({
                "ROWID": number + 1, "name": name, "created_at": "1700000000.00000", "size": 1 << 20,
                "content_type": "application/octet-stream",
                "etag": "b6d81b360a5672d80c27430f39153e2c", "deleted": 0,
                "storage_policy_index": 0,
            })
        };
        let rows: Vec<_> = names.iter().enumerate().map(row).collect();
        let body = json!(["merge_items", rows, "another"])
            .to_string()
            .into_bytes();
        let answer = http.send("REPLICATE", &url, &[], body);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 202, "{said}");
    }
}
