//! What an RBD image is called on the command line.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// `rbd:POOL/IMAGE[@SNAP]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdName {
    /// The pool.
    pub pool: String,
    /// The image.
    pub image: String,
    /// The snapshot at which it is read.
    pub snap: Option<String>,
}

impl RbdName {
    /// What such a name begins with.
    const SCHEME: &str = "rbd:";

    /// Reads a name; `None` for what is none.
    ///
    /// # Errors
    /// `Invalid` for one of which parts are missing.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let rest = text.strip_prefix(Self::SCHEME)?;
        let parsed = rest.split_once('/').and_then(|(pool, image)| {
            let (image, snap) = match image.split_once('@') {
                Some((image, snap)) => (image, Some(snap)),
                None => (image, None),
            };
            let is_name = |part: &str| !part.is_empty() && !part.contains(['/', '@', '\0']);
            let parts = [Some(pool), Some(image), snap];
            parts.into_iter().flatten().all(is_name).then(|| Self {
                pool: pool.to_owned(),
                image: image.to_owned(),
                snap: snap.map(str::to_owned),
            })
        });
        Some(parsed.ok_or_else(|| {
            let reason = "it is not of the form rbd:POOL/IMAGE or rbd:POOL/IMAGE@SNAPSHOT";
            Error::new(Kind::Invalid, "look up", text, reason)
                .advise("see `rbd ls POOL`; a file of that name is ./rbd:...")
        }))
    }

    /// What a file with it would be called.
    pub fn file_name(&self) -> String {
        match &self.snap {
            Some(snap) => format!("{}@{snap}", self.image),
            None => self.image.clone(),
        }
    }

    /// The volume that it is, as Cinder calls those: `volume-UUID`.
    pub fn volume_id(&self) -> Option<&str> {
        let id = self.image.strip_prefix("volume-")?;
        uuid::Uuid::try_parse(id).is_ok().then_some(id)
    }
}

impl fmt::Display for RbdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", Self::SCHEME, self.pool, self.image)?;
        self.snap
            .as_ref()
            .map_or(Ok(()), |snap| write!(f, "@{snap}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let volume = "74dd5d66-dcfa-5747-ab91-724c9e4956b0";
        let text = format!("rbd:volumes/volume-{volume}@before");
        let name = RbdName::parse(&text).unwrap().unwrap();
        assert_eq!(
            (&*name.pool, name.snap.as_deref()),
            ("volumes", Some("before"))
        );
        assert_eq!(name.volume_id(), Some(volume));
        assert_eq!(name.to_string(), text);
        let plain = RbdName::parse("rbd:a/b").unwrap().unwrap();
        assert_eq!((plain.volume_id(), &plain.snap), (None, &None));
        for wrong in [
            "rbd:",
            "rbd:a",
            "rbd:a/",
            "rbd:/b",
            "rbd:a/b@",
            "rbd:a/b/c",
            "rbd:a/b@c@d",
        ] {
            let e = RbdName::parse(wrong).unwrap().unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{wrong}");
        }
        assert!(RbdName::parse("./rbd:a/b").is_none());
    }
}
