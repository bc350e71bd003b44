//! What of the file system a jailed program sees. The user's files stay as they are, so that downloads land where they
//! should; what tells of the world outside or leads there is covered: processes, devices, addresses, sockets of services.
//!
//! Runs inside the jail's mount namespace. Whatever can't be covered ends the start: nothing here is optional.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, mount_move, mount_remount, move_mount, open_tree,
};

/// Device files of the jail: those that hold no secret and lead nowhere.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
/// What stays of `/run`: disks of the user, and where NixOS keeps its programs.
const KEPT_OF_RUN: &[&str] = &["media", "current-system", "opengl-driver"];
/// Parts of `/proc` that speak for the whole machine, not for this namespace. A write there by root can start a program
/// outside (`core_pattern`), whatever capabilities it lacks.
const READ_ONLY_OF_PROC: &[&str] = &["sys", "sysrq-trigger", "irq", "bus", "fs"];
/// Parts of `/proc` that show the machine's memory, keys and devices.
const HIDDEN_OF_PROC: &[&str] = &[
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "timer_list",
    "sched_debug",
    "acpi",
    "scsi",
];

/// The same for everybody who runs a program here (the one of Whonix, so that it stands out less).
const MACHINE_ID: &str = "b08dfa6083e7567a1921a715000001fb\n";
const RESOLV_CONF: &str = "nameserver 127.0.0.1\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// Which part could not be covered.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(super) struct Uncovered {
    /// A path.
    pub what: &'static str,
    /// Why.
    pub error: io::Error,
}

fn at<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Uncovered {
    move |error| Uncovered {
        what,
        error: error.into(),
    }
}

/// Covers everything, from private propagation to the working folder. `terminal` is the one that the program is started on.
///
/// # Errors
/// What could not be covered; the program must not be started.
pub(super) fn cover(terminal: Option<&Path>) -> Result<(), Uncovered> {
    let here = std::env::current_dir().ok();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(at("/"))?;
    let automatic = automounts();
    proc().map_err(at("/proc"))?;
    tmpfs("/sys", "mode=755,size=0").map_err(at("/sys"))?;
    run().map_err(at("/run"))?;
    devices(terminal).map_err(at("/dev"))?;
    for path in ["/tmp/.X11-unix", "/var/run"] {
        let real = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if real {
            tmpfs(path, "mode=755,size=0").map_err(at(path))?;
        }
    }
    for path in automatic {
        // Looking below would ask a server outside.
        if path.is_dir() {
            tmpfs(&path, "mode=755,size=0").map_err(at("an automatic mount"))?;
        }
    }
    names().map_err(at("/etc"))?;
    let machine_ids = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    for path in machine_ids {
        replace(Path::new(path), MACHINE_ID).map_err(at(path))?;
    }
    // A working folder below a cover would be a way around it.
    let back = here.as_deref().map(std::env::set_current_dir);
    if !matches!(back, Some(Ok(()))) {
        std::env::set_current_dir("/").map_err(at("the working folder"))?;
    }
    Ok(())
}

fn tmpfs(path: impl AsRef<Path>, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", path.as_ref(), "tmpfs", flags, options.as_c_str())?;
    Ok(())
}

fn read_only(path: &Path, more: MountFlags) -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(path, flags | more, "")?;
    Ok(())
}

fn proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None)?;
    let proc = Path::new("/proc");
    for name in READ_ONLY_OF_PROC {
        let path = proc.join(name);
        if path.exists() {
            mount_bind(&path, &path)?;
            read_only(&path, MountFlags::NOEXEC)?;
        }
    }
    for name in HIDDEN_OF_PROC {
        let path = proc.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => tmpfs(&path, "mode=555,size=0")?,
            Ok(_) => mount_bind("/dev/null", &path)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// A fresh `/run` with what is kept of the old one.
fn run() -> io::Result<()> {
    enum Kept {
        Tree(OwnedFd),
        Link(PathBuf),
    }
    let old = Path::new("/run");
    if !old.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut kept = Vec::new();
    for name in KEPT_OF_RUN {
        let path = old.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => kept.push((name, Kept::Link(fs::read_link(path)?))),
            Ok(found) if found.is_dir() => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_RECURSIVE;
                let tree = open_tree(rustix::fs::CWD, &path, flags)?;
                kept.push((name, Kept::Tree(tree)));
            }
            _ => {}
        }
    }
    tmpfs(old, "mode=755")?;
    for (name, kept) in kept {
        let path = old.join(name);
        match kept {
            Kept::Link(to) => std::os::unix::fs::symlink(to, path)?,
            Kept::Tree(tree) => {
                fs::create_dir(&path)?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(tree, "", rustix::fs::CWD, &path, flags)?;
            }
        }
    }
    Ok(())
}

/// A `/dev` of its own: no disks, no tunnels, no other terminals. It grows in the fresh `/run` and is moved from there.
fn devices(terminal: Option<&Path>) -> io::Result<()> {
    let new = Path::new("/run/.dev");
    fs::create_dir(new)?;
    tmpfs(new, "mode=755,size=64k")?;
    for name in DEVICES {
        let from = Path::new("/dev").join(name);
        if from.exists() {
            let to = new.join(name);
            fs::write(&to, "")?;
            mount_bind(from, to)?;
        }
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        std::os::unix::fs::symlink(to, new.join(name))?;
    }
    let shared = new.join("shm");
    fs::create_dir(&shared)?;
    tmpfs(&shared, "mode=1777")?;
    let terminals = new.join("pts");
    fs::create_dir(&terminals)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"newinstance,ptmxmode=0666,mode=620";
    mount("devpts", &terminals, "devpts", flags, options)?;
    if let Some(terminal) = terminal {
        // Under a name that the C library looks at when it asks what terminal this is.
        let console = new.join("console");
        fs::write(&console, "")?;
        mount_bind(terminal, &console)?;
    }
    mount_move(new, "/dev")?;
    fs::remove_dir(new)
}

/// Name look-up: by files and the resolver inside, and by nothing that a socket of a service would answer.
fn names() -> io::Result<()> {
    replace(Path::new("/etc/resolv.conf"), RESOLV_CONF)?;
    replace(Path::new("/etc/hosts"), HOSTS)?;
    let switch = Path::new("/etc/nsswitch.conf");
    match fs::read_to_string(switch) {
        Ok(text) => replace(switch, &files_and_dns(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The same name service switch, with hosts and networks looked up in files and by DNS only.
fn files_and_dns(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        let database = line.split(':').next().unwrap_or_default().trim();
        !matches!(database, "hosts" | "networks")
    });
    let mut out: String = kept.flat_map(|line| [line, "\n"]).collect();
    out.push_str("hosts: files dns\nnetworks: files\n");
    out
}

/// Puts a file of ours over another one, also where that one lies in the covered `/run`. A file that isn't there is not made.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let target = match follow(path) {
        Some(target) => target,
        None => return Ok(()),
    };
    if target.starts_with("/run") || target.starts_with("/var/run") {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        return fs::write(target, text);
    }
    if !target.exists() {
        return Ok(());
    }
    let ours = Path::new("/run/.cover");
    fs::write(ours, text)?;
    mount_bind(ours, &target)?;
    read_only(&target, MountFlags::empty())?;
    // The mount keeps the file.
    fs::remove_file(ours)
}

/// Follows a file's links by name, since what they lead to may be covered already.
fn follow(path: &Path) -> Option<PathBuf> {
    /// As the kernel: enough for every sane chain.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = plain(&path.parent()?.join(to)),
            Err(_) => return Some(path),
        }
    }
    None
}

/// Removes `.` and `..` by name.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}

/// Where looking can make the kernel ask a server (autofs).
fn automounts() -> Vec<PathBuf> {
    fs::read("/proc/self/mountinfo")
        .map(|text| automounts_of(&text))
        .unwrap_or_default()
}

/// Mount points of file system type `autofs` in a mountinfo file (proc_pid_mountinfo(5)), without those that are covered
/// anyway.
fn automounts_of(mountinfo: &[u8]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let Some(dash) = words.iter().position(|word| *word == b"-") else {
            continue;
        };
        let kind = words.get(dash + 1);
        if let (Some(&b"autofs"), Some(path)) = (kind, words.get(4)) {
            let path = unescape(path);
            let covered = ["/proc", "/sys", "/dev", "/run"];
            if !covered.iter().any(|folder| path.starts_with(folder)) {
                out.push(path);
            }
        }
    }
    out
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .first_chunk::<3>()
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            let value = digits
                .iter()
                .fold(0_u16, |value, digit| value * 8 + u16::from(digit - b'0'));
            out.push(u8::try_from(value & 0xff).unwrap_or_default());
            rest = &after[3..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsStr::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_looked_up_in_files_and_by_dns_alone() {
        let before = "passwd: files systemd\nhosts:  mymachines resolve [!UNAVAIL=return] files mdns4\nnetworks: nis";
        let after = files_and_dns(before);
        assert_eq!(
            after,
            "passwd: files systemd\nhosts: files dns\nnetworks: files\n"
        );
    }

    #[test]
    fn links_are_followed_by_name_through_folders_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::os::unix::fs::symlink("../gone/./a/../resolv.conf", dir.join("first")).unwrap();
        let name = dir.parent().unwrap().join("gone/resolv.conf");
        assert_eq!(follow(&dir.join("first")), Some(name));
        std::os::unix::fs::symlink("round", dir.join("round")).unwrap();
        assert_eq!(follow(&dir.join("round")), None);
        assert_eq!(follow(Path::new("/nowhere")), Some("/nowhere".into()));
    }

    #[test]
    fn automatic_mounts_are_found_with_their_escaped_names() {
        let text = b"30 29 0:26 / /net\\040work rw,relatime shared:1 - autofs systemd-1 rw\n\
            31 29 0:27 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n\
            32 29 0:28 / /home rw - ext4 /dev/sda rw\nshort line\n";
        assert_eq!(automounts_of(text), [PathBuf::from("/net work")]);
    }
}
