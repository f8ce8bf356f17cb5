//! A container's view of the file system: the machine's own tree, privately writable, with its own /tmp, /run, /proc and
//! mounts.
//!
//! Enters: a process in a fresh mount namespace. Leaves: the same process with a new root. The root is a tmpfs; each
//! directory of the machine's root is an overlay over the machine's (writes stay in the tmpfs and vanish with the
//! container), or a read-only bind mount where the kernel refuses the overlay. Works in a user namespace too.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::pivot_root;

use super::{BindMount, ContainerSpec, LaunchError};

/// Where the old root is reachable while the new one is furnished.
const OLD: &str = "/.old";
const NONE: Option<&str> = None;

/// Builds the view and makes it the root.
pub(super) fn build(spec: &ContainerSpec) -> Result<(), LaunchError> {
    bind_flags("/", MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    let scratch = &spec.rootfs;
    tmpfs(scratch)?;
    // Layers are named relative to here: an overlay's options cannot hold every path.
    std::env::set_current_dir(scratch).map_err(io("chdir", scratch))?;
    let root = scratch.join("root");
    make_dir(&root, 0o755)?;
    tmpfs(&root)?;
    for entry in read_dir(Path::new("/"))? {
        furnish(&entry, &root)?;
    }
    submounts(&root, &spec.private);
    make_dir(&root.join(".old"), 0o700)?;
    pivot_root(&root, &root.join(".old")).map_err(system("pivot_root", &root))?;
    std::env::set_current_dir("/").map_err(io("chdir", Path::new("/")))?;
    keep(&spec.keep)?;
    for (path, text) in &spec.files {
        // A link (as systemd-resolved makes) would lead out of the private view.
        let _ = fs::remove_file(path);
        fs::write(path, text).map_err(io("write", path))?;
    }
    mount_proc(spec.own_pid_namespace)?;
    for bind in &spec.mounts {
        bind_volume(bind)?;
    }
    umount2(OLD, MntFlags::MNT_DETACH).map_err(system("umount", Path::new(OLD)))?;
    let _ = fs::remove_dir(OLD);
    Ok(())
}

/// Puts one entry of the machine's root into the new one.
fn furnish(source: &Path, root: &Path) -> Result<(), LaunchError> {
    let Some(name) = source.file_name() else { return Ok(()) };
    let target = root.join(name);
    let kind = fs::symlink_metadata(source).map_err(io("stat", source))?;
    if kind.is_symlink() {
        let to = fs::read_link(source).map_err(io("readlink", source))?;
        return std::os::unix::fs::symlink(to, &target).map_err(io("symlink", &target));
    }
    if !kind.is_dir() {
        return Ok(());
    }
    let mode = kind.permissions().mode() & 0o7777;
    match name.to_str() {
        Some("tmp") => make_dir(&target, 0o1777),
        Some("run") => make_dir(&target, 0o755),
        Some("proc") => make_dir(&target, 0o555),
        Some("dev" | "sys") => {
            make_dir(&target, mode)?;
            bind(source, &target)
        }
        _ => {
            make_dir(&target, mode)?;
            overlay(source, &target, &Path::new("layer").join(name)).or_else(|_| {
                bind(source, &target)?;
                remount_read_only(&target)
            })
        }
    }
}

fn overlay(lower: &Path, target: &Path, layer: &Path) -> Result<(), LaunchError> {
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    fs::create_dir_all(&upper).map_err(io("mkdir", &upper))?;
    fs::create_dir_all(&work).map_err(io("mkdir", &work))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let attempt = |options: &str| {
        mount(
            Some("overlay"),
            target,
            Some("overlay"),
            MsFlags::empty(),
            Some(options),
        )
    };
    // `userxattr` is needed inside a user namespace, and not known to older kernels.
    attempt(&options)
        .or_else(|_| attempt(&format!("{options},userxattr")))
        .map_err(system("mount an overlay on", target))?;
    if let Ok(meta) = fs::metadata(lower) {
        let _ = fs::set_permissions(target, meta.permissions());
    }
    Ok(())
}

/// An overlay does not show what is mounted below its lower directory: bind those mounts again where they were.
fn submounts(root: &Path, private: &Path) {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else {
        return;
    };
    for line in table.lines() {
        let Some(point) = line.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let depth = point.components().count();
        let top = point.components().nth(1).and_then(|top| top.as_os_str().to_str());
        let ours = point.starts_with(private);
        if depth < 3 || ours || matches!(top, Some("tmp" | "run" | "proc" | "dev" | "sys")) {
            continue;
        }
        let target = root.join(point.strip_prefix("/").unwrap_or(&point));
        if target.exists() {
            // Best effort: a mount hidden by another one cannot be seen from here either.
            let _ = bind(&point, &target);
        }
    }
}

/// Shows paths of the machine that the private /tmp or /run hide.
fn keep(paths: &[PathBuf]) -> Result<(), LaunchError> {
    for path in paths.iter().filter(|path| !path.exists()) {
        let source = old(path);
        if source.exists() {
            make_mount_point(&source, path)?;
            bind(&source, path)?;
        }
    }
    Ok(())
}

fn mount_proc(own: bool) -> Result<(), LaunchError> {
    let proc = Path::new("/proc");
    if own {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        return mount(Some("proc"), proc, Some("proc"), flags, NONE).map_err(system("mount", proc));
    }
    bind(&old(proc), proc)
}

fn bind_volume(volume: &BindMount) -> Result<(), LaunchError> {
    let (source, target) = (old(&volume.source), &volume.target);
    make_mount_point(&source, target)?;
    bind(&source, target)?;
    if !volume.propagate {
        bind_flags(target, MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    }
    if volume.read_only {
        remount_read_only(target)
    } else {
        Ok(())
    }
}

/// Inside a user namespace a remount must repeat the flags that the mount has.
fn remount_read_only(target: &Path) -> Result<(), LaunchError> {
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    let has = statvfs(target).map_err(system("statvfs", target))?.flags();
    let pairs = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    for (on, flag) in pairs {
        if has.contains(on) {
            flags |= flag;
        }
    }
    mount(NONE, target, NONE, flags, NONE).map_err(system("remount", target))
}

fn make_mount_point(source: &Path, target: &Path) -> Result<(), LaunchError> {
    if source.is_dir() {
        return fs::create_dir_all(target).map_err(io("mkdir", target));
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(io("mkdir", parent))?;
    }
    if fs::symlink_metadata(target).is_ok() {
        return Ok(());
    }
    File::create(target).map(drop).map_err(io("create", target))
}

fn old(path: &Path) -> PathBuf {
    Path::new(OLD).join(path.strip_prefix("/").unwrap_or(path))
}

fn tmpfs(target: &Path) -> Result<(), LaunchError> {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .map_err(system("mount a tmpfs on", target))
}

fn bind(source: &Path, target: &Path) -> Result<(), LaunchError> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).map_err(system("bind", target))
}

fn bind_flags(target: impl AsRef<Path>, flags: MsFlags) -> Result<(), LaunchError> {
    mount(NONE, target.as_ref(), NONE, flags, NONE).map_err(system("set propagation of", target.as_ref()))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), LaunchError> {
    DirBuilder::new().mode(mode).create(path).map_err(io("mkdir", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io("chmod", path))
}

fn read_dir(path: &Path) -> Result<Vec<PathBuf>, LaunchError> {
    let entries = fs::read_dir(path).map_err(io("list", path))?;
    Ok(entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect())
}

fn system<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> LaunchError + 'a {
    move |errno| LaunchError::System {
        what,
        path: path.to_path_buf(),
        errno,
    }
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> LaunchError + 'a {
    move |source| LaunchError::Io {
        what,
        path: path.to_path_buf(),
        source,
    }
}
