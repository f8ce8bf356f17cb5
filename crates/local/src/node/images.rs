//! What an image name means on this node: one of this build's binaries, or only a name beside a `command`.

use std::path::{Path, PathBuf};

use crate::launch::BindMount;

/// Where the binaries stand in every container; first in its PATH.
const IN_CONTAINER: &str = "/.image";

/// Directories that a container has for itself.
const PRIVATE: [&str; 3] = ["/tmp", "/run", "/var/run"];

/// The binaries that images stand for, and where commands are looked up.
#[derive(Clone, Debug)]
pub struct Images {
    binaries: Vec<(&'static str, PathBuf)>,
    path: String,
    keep: Vec<PathBuf>,
}

/// The image cannot be "pulled".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "failed to pull image \"{0}\": this node has no images; only `weir` and `bookinfo` are built in, any other needs `command` to name a program of the machine"
)]
pub struct ErrImagePull(pub String);

impl Images {
    /// `exe` is this program; `bookinfo` may stand beside it.
    pub fn new(exe: &Path, extra_path: &[PathBuf], machine_path: &str) -> Self {
        let mut binaries = vec![("weir", exe.to_path_buf())];
        let dir = exe.parent().unwrap_or(Path::new("/"));
        let bookinfo = dir.join("bookinfo");
        if bookinfo.is_file() {
            binaries.push(("bookinfo", bookinfo));
        }
        let mut path = vec![IN_CONTAINER.to_string()];
        path.extend(
            extra_path
                .iter()
                .chain([&dir.to_path_buf()])
                .map(|p| p.display().to_string()),
        );
        path.extend(machine_path.split(':').filter(|p| !p.is_empty()).map(String::from));
        let mut keep: Vec<PathBuf> = extra_path.iter().cloned().chain([dir.to_path_buf()]).collect();
        // A container's /tmp and /run are its own: programs that the machine keeps there are still to be found.
        let hidden = |path: &&Path| PRIVATE.iter().any(|private| path.starts_with(private));
        keep.extend(
            machine_path
                .split(':')
                .map(Path::new)
                .filter(hidden)
                .map(Path::to_path_buf),
        );
        Self {
            binaries,
            path: path.join(":"),
            keep,
        }
    }

    /// The command line of a container.
    ///
    /// # Errors
    /// When nothing says which program it is.
    pub fn command(&self, image: &str, command: &[String], args: &[String]) -> Result<Vec<String>, ErrImagePull> {
        let mut argv = if command.is_empty() {
            let name = image_name(image);
            let known = self.binaries.iter().find(|(known, _)| *known == name);
            let (name, _) = known.ok_or_else(|| ErrImagePull(image.to_string()))?;
            vec![format!("{IN_CONTAINER}/{name}")]
        } else {
            command.to_vec()
        };
        argv.extend_from_slice(args);
        Ok(argv)
    }

    /// PATH of every container that does not set its own.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Directories of the machine that must be visible in every container.
    pub fn keep(&self) -> &[PathBuf] {
        &self.keep
    }

    /// The binaries, as mounts.
    pub fn mounts(&self) -> Vec<BindMount> {
        let mount = |(name, source): &(&str, PathBuf)| BindMount {
            source: source.clone(),
            target: Path::new(IN_CONTAINER).join(name),
            read_only: true,
            propagate: false,
        };
        self.binaries.iter().map(mount).collect()
    }
}

/// The last part of an image's name, without registry, tag and digest.
fn image_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split('@').next().unwrap_or(name);
    name.split(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_images_have_an_entry_point_and_others_need_a_command() {
        let images = Images::new(Path::new("/x/weir"), &[], "/usr/bin:/bin");
        let args = ["agent".to_string()];
        for image in ["weir", "weir:latest", "ghcr.io/a/weir:1@sha256:ab"] {
            assert_eq!(images.command(image, &[], &args).unwrap(), ["/.image/weir", "agent"]);
        }
        let command = ["sleep".to_string(), "1".to_string()];
        assert_eq!(images.command("nginx", &command, &[]).unwrap(), command);
        assert_eq!(
            images.command("nginx:1", &[], &args),
            Err(ErrImagePull("nginx:1".into()))
        );
        assert_eq!(images.path(), "/.image:/x:/usr/bin:/bin");
        let images = Images::new(Path::new("/x/weir"), &[], "/tmp/tools:/usr/bin");
        assert_eq!(images.keep(), [Path::new("/x"), Path::new("/tmp/tools")]);
    }
}
