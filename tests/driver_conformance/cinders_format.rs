//! What only Cinder's format has.

use crate::common::cinder::get;
use crate::common::library::{Dice, compressed, described, options};
use crate::{Place, store_all};
use cinderfs::driver::chunked::Options;
use cinderfs::driver::{Basis, Description};
use cinderfs::error::Kind;
use cinderfs::format::Layout;

#[tokio::test]
async fn documents_are_cinders_to_the_byte() {
    let place = Place::memory(Layout::Posix);
    let rooms = place.rooms();
    let mut image = Dice(1).text(65_536);
    image.extend(Dice(2).noise(5000));
    let sink = rooms.driver.create("диск", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let description = Description {
        name: "täglich \"1\" 😀\u{7f}\n".into(),
        description: None,
        modified: None,
    };
    let backup = sink
        .publish(image.len() as u64, &description)
        .await
        .unwrap();
    let prefix = &backup.service_metadata;
    let id = &backup.id;
    let volume = "\\u0434\\u0438\\u0441\\u043a";
    let name = "t\\u00e4glich \\\"1\\\" \\ud83d\\ude00\\u007f\\n";
    let created = backup.created_at.unwrap().to_python();
    let stamp = created[..19].replace([' ', ':', '-'], "");
    assert_eq!(prefix, &format!("volume_диск_{stamp}_backup_{id}"));
    assert_eq!(backup.container, format!("{}/{}/{id}", &id[..2], &id[2..4]));
    let hex = |bytes: &[u8]| crate::common::golden::sha256(bytes);
    let md5 = |bytes: &[u8]| {
        use md5::Digest;
        cinderfs::format::to_hex(&md5::Md5::digest(bytes))
    };
    let escaped = format!("volume_{volume}_{stamp}_backup_{id}");
    let stored = backup.stored_bytes.unwrap();
    let metadata = format!(
        r#"{{
  "backup_description": null,
  "backup_id": "{id}",
  "backup_name": "{name}",
  "cinderfs": {{
    "data_bytes": 70536,
    "file": true,
    "mtime_nsec": 0,
    "size": 70536,
    "stored_bytes": {stored}
  }},
  "created_at": "{created}",
  "objects": [
    {{
      "{escaped}-00001": {{
        "compression": "zlib",
        "length": 65536,
        "md5": "{}",
        "offset": 0
      }}
    }},
    {{
      "{escaped}-00002": {{
        "compression": "none",
        "length": 5000,
        "md5": "{}",
        "offset": 65536
      }}
    }}
  ],
  "parent_id": null,
  "version": "1.0.0",
  "volume_id": "{volume}",
  "volume_meta": null
}}"#,
        md5(&image[..65_536]),
        md5(&image[65_536..])
    );
    let text = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{prefix}_metadata"),
    )
    .await;
    assert_eq!(String::from_utf8(text).unwrap(), metadata);
    let hashes: Vec<String> = image
        .chunks(4096)
        .map(|b| format!("    \"{}\"", hex(b)))
        .collect();
    let list = format!(
        r#"{{
  "backup_description": null,
  "backup_id": "{id}",
  "backup_name": "{name}",
  "chunk_size": 4096,
  "created_at": "{created}",
  "sha256s": [
{}
  ],
  "version": "1.0.0",
  "volume_id": "{volume}"
}}"#,
        hashes.join(",\n")
    );
    let text = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{prefix}_sha256file"),
    )
    .await;
    assert_eq!(String::from_utf8(text).unwrap(), list);
    let chunk = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{prefix}-00002"),
    )
    .await;
    assert!(chunk == image[65_536..]);
}

#[tokio::test]
async fn the_configured_spelling_is_noted_in_lower_case() {
    let place = Place::memory(Layout::Swift);
    for (configured, noted) in [
        ("GZip", "gzip"),
        ("bzip2", "bzip2"),
        ("OFF", "none"),
        ("no", "none"),
    ] {
        let rooms = place.with(compressed(Layout::Swift, configured));
        let backup = rooms.write("v", &Dice(1).text(10_000)).await;
        assert_eq!(backup.compression, noted);
        assert_eq!(backup.container, "volumebackups");
        assert!(place.rooms().read_all("v", &backup.id).await.unwrap() == Dice(1).text(10_000));
    }
}

#[tokio::test]
async fn a_container_of_ones_own() {
    let place = Place::posix();
    let rooms = place.with(Options {
        container: Some("my/own".into()),
        ..options(Layout::Posix)
    });
    let one = rooms.write("v", b"one").await;
    let two = rooms.write("v", b"two").await;
    assert_eq!(
        (one.container.as_str(), two.container.as_str()),
        ("my/own", "my/own")
    );
    rooms.driver.delete(&one).await.unwrap();
    assert_eq!(place.rooms().read_all("v", &two.id).await.unwrap(), b"two");
}

#[tokio::test]
async fn a_long_description_does_not_hide_the_hashes() {
    let place = Place::memory(Layout::Posix);
    let rooms = place.rooms();
    let image = Dice(1).image(100_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let description = Description {
        description: Some("\"sha256s\": [ ☃ ]".repeat(3000)),
        ..described("a")
    };
    let backup = sink.publish(100_000, &description).await.unwrap();
    assert!(place.rooms().read_all("v", &backup.id).await.unwrap() == image);
}

#[tokio::test]
async fn volume_ids_that_fit_no_name_are_refused() {
    let place = Place::posix();
    let error = place
        .rooms()
        .driver
        .create(&"v".repeat(300), Basis::Full)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), Kind::TooLong);
}
