//! Disk images that are not raw: Cinder would put them onto a volume as they are, and no
//! machine could use it.

use crate::driver::ChunkData;

/// What files of a format begin with, or have at an offset; its name is qemu-img(1)'s.
const SIGNS: &[(&str, u64, &[u8])] = &[
    ("qcow2", 0, b"QFI\xfb"),
    ("qed", 0, b"QED\0"),
    ("vmdk", 0, b"KDMV"),
    ("vhdx", 0, b"vhdxfile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
];

/// The format of an image that begins with this chunk, if it is known and not raw. What an
/// incremental backup has not changed cannot be seen any more.
pub fn disk_format(first: &ChunkData) -> Option<&'static str> {
    let has = |(_, offset, sign): &&(&str, u64, &[u8])| {
        let mut found = vec![0; sign.len()];
        let end = offset + sign.len() as u64;
        first.len() >= end && first.read_at(*offset, &mut found).is_ok() && found == *sign
    };
    SIGNS.iter().find(has).map(|(name, ..)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_signs() {
        let of = |bytes: &[u8]| disk_format(&ChunkData::Memory(bytes.to_vec().into()));
        assert_eq!(of(b"QFI\xfb\0\0\0\x03"), Some("qcow2"));
        assert_eq!(of(b"vhdxfile"), Some("vhdx"));
        let mut vdi = b"<<< QEMU VM Virtual Disk Image >>>\n".to_vec();
        vdi.resize(0x40, 0);
        vdi.extend(b"\x7f\x10\xda\xbe");
        assert_eq!(of(&vdi), Some("vdi"));
        for raw in [&b""[..], b"QFI", b"\xeb\x3c\x90", b"xQFI\xfb"] {
            assert_eq!(of(raw), None);
        }
        assert_eq!(disk_format(&ChunkData::Zero(100)), None);
    }
}
