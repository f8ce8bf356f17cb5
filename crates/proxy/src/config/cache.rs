//! The last good resources on disk, so that a proxy restarts without its control plane.
//!
//! Enters and leaves: [`Raw`] resources of one node, secrets among them: only the owner may read the file. It is replaced
//! atomically and carries a checksum; one that is torn, of another node or of another format counts as none.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use weir_xds::ResourceType;

use super::store::Raw;

const MAGIC: &[u8; 8] = b"WEIRCFG1";
const FILE: &str = "resources.bin";
/// Files above this size are not read.
const FILE_BYTES_MAX: u64 = 512 << 20;

#[derive(Clone, PartialEq, Message)]
struct Saved {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<SavedResource>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedResource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    body: Bytes,
}

/// Where the resources of one node are kept.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    node: String,
}

impl Cache {
    /// A cache in `directory`, which is made when first written.
    pub fn new(directory: PathBuf, node: String) -> Self {
        Self { directory, node }
    }

    /// Encodes resources for [`Cache::write`].
    pub fn encode<'a>(&self, resources: impl Iterator<Item = &'a Raw>) -> Vec<u8> {
        let resources = resources
            .map(|raw| SavedResource {
                type_url: raw.ty.type_url().to_owned(),
                name: raw.name.clone(),
                version: raw.version.clone(),
                body: raw.body.clone(),
            })
            .collect();
        let saved = Saved {
            node: self.node.clone(),
            resources,
        };
        let mut bytes = Vec::with_capacity(16 + saved.encoded_len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 8]);
        // A vector grows as needed, so encoding into it cannot fail.
        let _ = saved.encode(&mut bytes);
        let checksum = checksum(&bytes[16..]);
        bytes[8..16].copy_from_slice(&checksum);
        bytes
    }

    /// Replaces the file. Blocking.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let temporary = self.directory.join(format!("{FILE}.{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        // One that was left behind keeps its mode.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        written
            .and_then(|()| fs::rename(&temporary, self.directory.join(FILE)))
            .inspect_err(|_| {
                let _ = fs::remove_file(&temporary);
            })
    }

    /// Reads the file; nothing when there is none that can be used. Blocking.
    pub fn read(&self) -> Vec<Raw> {
        let path = self.directory.join(FILE);
        match read(&path, &self.node) {
            Ok(resources) => resources,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "the kept configuration is not used");
                }
                Vec::new()
            }
        }
    }
}

fn read(path: &Path, node: &str) -> io::Result<Vec<Raw>> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return wrong("too large");
    }
    let bytes = Bytes::from(fs::read(path)?);
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return wrong("of another format");
    };
    let Some((sum, body)) = rest.split_at_checked(8) else {
        return wrong("torn");
    };
    if checksum(body) != sum {
        return wrong("torn");
    }
    let Ok(saved) = Saved::decode(body) else {
        return wrong("of another format");
    };
    if saved.node != node {
        return wrong("of another node");
    }
    let raw = |r: SavedResource| {
        let ty = ResourceType::from_type_url(&r.type_url)?;
        Some(Raw {
            ty,
            name: r.name,
            version: r.version,
            body: r.body,
        })
    };
    Ok(saved.resources.into_iter().filter_map(raw).collect())
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    rapidhash::v3::rapidhash_v3(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(name: &str) -> Raw {
        Raw {
            ty: ResourceType::Cluster,
            name: name.into(),
            version: "1".into(),
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn what_is_written_is_read_by_the_same_node_only() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("new"), "a.b".into());
        assert!(cache.read().is_empty());
        let resources = [raw("x"), raw("y")];
        cache.write(&cache.encode(resources.iter())).unwrap();
        assert_eq!(cache.read(), resources);
        assert_eq!(
            fs::read_dir(directory.path().join("new")).unwrap().count(),
            1,
            "no temporary file is left"
        );
        let mode = fs::metadata(directory.path().join("new").join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "it may hold keys");
        assert!(Cache::new(directory.path().join("new"), "c.d".into()).read().is_empty());
    }

    proptest! {
        #[test]
        fn a_damaged_file_counts_as_none(at in 0usize..60, flip in 1u8.., cut in 0usize..60) {
            let directory = tempfile::tempdir().unwrap();
            let cache = Cache::new(directory.path().into(), "a.b".into());
            let good = cache.encode([raw("x")].iter());
            let mut flipped = good.clone();
            let place = at % flipped.len();
            flipped[place] ^= flip;
            fs::write(directory.path().join(FILE), &flipped).unwrap();
            prop_assert!(cache.read().is_empty());
            fs::write(directory.path().join(FILE), &good[..cut.min(good.len() - 1)]).unwrap();
            prop_assert!(cache.read().is_empty());
        }
    }
}
