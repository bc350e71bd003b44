#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use hushswarm_circuits::relay_list::DescriptorError;

use super::*;
use crate::config::RelayConfig;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn fresh() -> (tempfile::TempDir, StateDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path().join("a/state")).unwrap();
    (temp, dir)
}

#[test]
fn a_new_folder_and_its_files_are_for_this_user_alone() {
    let (temp, dir) = fresh();
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(&temp.path().join("a")), 0o700);
    dir.write("plain", b"x").unwrap();
    dir.write_secret("secret", b"y").unwrap();
    let _lock = dir.lock().unwrap();
    for name in ["plain", "secret", "lock"] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(dir.subdir("inner").unwrap().path()), 0o700);
}

#[test]
fn a_log_is_told_what_went_wrong_and_no_path() {
    let (_temp, dir) = fresh();
    fs::create_dir(dir.path().join("0123abcd.json")).unwrap();
    let error = dir.write("0123abcd.json", b"x").unwrap_err();
    assert!(error.to_string().contains("0123abcd"));
    assert_eq!(error.kind(), "can't write: is a directory");
    fs::write(dir.path().join("0123abcd.torrent"), b"long").unwrap();
    let error = dir.read("0123abcd.torrent", 1).unwrap_err();
    assert_eq!(error.kind(), "too large");
}

#[test]
fn a_folder_that_others_can_use_is_refused_with_the_command_to_mend_it() {
    let (_temp, dir) = fresh();
    for bad in [0o701, 0o710, 0o704, 0o750, 0o755, 0o770, 0o777] {
        chmod(dir.path(), bad);
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::FolderTooOpen { mode, .. } if mode == bad));
        let hint = error.hint().unwrap();
        assert_eq!(hint, format!("run: chmod 700 {}", dir.path().display()));
        assert_eq!(mode(dir.path()), bad, "it is the user who decides");
    }
    chmod(dir.path(), 0o700);
    StateDir::open(dir.path()).unwrap();
}

#[test]
fn links_and_files_in_the_place_of_the_folder_are_refused() {
    let (temp, dir) = fresh();
    let link = temp.path().join("link");
    symlink(dir.path(), &link).unwrap();
    assert!(matches!(StateDir::open(&link), Err(StateError::Symlink(_))));
    assert!(matches!(
        StateDir::open(link.join("")),
        Err(StateError::Symlink(_))
    ));
    let file = temp.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(
        StateDir::open(&file),
        Err(StateError::NotAFolder(_))
    ));
}

#[test]
fn a_foreign_folder_is_refused() {
    // Owned by root, and the tests may run as root: then by nobody.
    if rustix::process::geteuid().is_root() {
        let (_temp, dir) = fresh();
        std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
        assert!(matches!(
            StateDir::open(dir.path()),
            Err(StateError::ForeignOwner(_))
        ));
    } else {
        assert!(matches!(
            StateDir::open("/usr"),
            Err(StateError::ForeignOwner(_))
        ));
    }
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    let (_temp, dir) = fresh();
    assert!(dir.read_secret("key").unwrap().is_none());
    dir.write_secret("key", b"secret").unwrap();
    assert_eq!(
        dir.read_secret("key").unwrap().unwrap().as_slice(),
        b"secret"
    );
    chmod(&dir.path().join("key"), 0o640);
    let error = dir.read_secret("key").unwrap_err();
    assert!(matches!(
        error,
        StateError::SecretTooOpen { mode: 0o640, .. }
    ));
    assert!(error.hint().unwrap().contains("chmod 600"));
}

#[test]
fn files_are_replaced_whole_and_leave_nothing_behind() {
    let (_temp, dir) = fresh();
    dir.write("file", &[1; 10_000]).unwrap();
    let old = File::open(dir.path().join("file")).unwrap();
    dir.write("file", b"new").unwrap();
    assert_eq!(dir.read("file", 3).unwrap().unwrap(), b"new");
    let mut kept = Vec::new();
    (&old).read_to_end(&mut kept).unwrap();
    assert_eq!(
        kept, [1; 10_000],
        "whoever had it open still reads the old one"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // A folder in the place of the file: the rename fails, and the temporary file goes.
    dir.subdir("folder").unwrap();
    assert!(dir.write("folder", b"x").is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn links_pipes_and_large_files_are_not_read() {
    let (_temp, dir) = fresh();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    assert!(matches!(
        dir.read("link", 1 << 20),
        Err(StateError::Io { .. })
    ));
    dir.subdir("folder").unwrap();
    assert!(dir.read("folder", 10).is_err());
    dir.write("file", b"12345").unwrap();
    assert!(matches!(
        dir.read("file", 4),
        Err(StateError::TooLarge { limit: 4, .. })
    ));
    assert!(dir.write_secret("big", &[0; MAX_SECRET + 1]).is_err());
    assert!(dir.read("none", 4).unwrap().is_none());
}

#[test]
fn writing_through_a_link_replaces_the_link() {
    let (temp, dir) = fresh();
    let outside = temp.path().join("outside");
    fs::write(&outside, b"untouched").unwrap();
    symlink(&outside, dir.path().join("name")).unwrap();
    dir.write("name", b"mine").unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    assert_eq!(dir.read("name", 10).unwrap().unwrap(), b"mine");
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    let (_temp, dir) = fresh();
    for bad in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        ".hidden",
        "a b",
        "a\0",
        &"x".repeat(129),
    ] {
        assert!(
            matches!(dir.write(bad, b""), Err(StateError::BadName)),
            "{bad:?}"
        );
        assert!(
            matches!(dir.read(bad, 1), Err(StateError::BadName)),
            "{bad:?}"
        );
        assert!(
            matches!(dir.subdir(bad), Err(StateError::BadName)),
            "{bad:?}"
        );
    }
}

#[test]
fn one_process_at_a_time_holds_the_lock() {
    let (_temp, dir) = fresh();
    let held = dir.lock().unwrap();
    // Another open file, as another process has: flock tells them apart even within one process.
    let other = StateDir::open(dir.path()).unwrap();
    assert!(matches!(other.lock(), Err(StateError::Locked(_))));
    drop(held);
    other.lock().unwrap();
}

#[test]
fn keys_come_back_and_are_never_overwritten() {
    let (_temp, dir) = fresh();
    assert!(RelayKeys::load(&dir).unwrap().is_none());
    assert!(matches!(
        AuthorityKey::load(&dir),
        Err(StateError::NoKeys(_))
    ));
    let made = RelayKeys::generate(&mut rand::rng());
    made.store(&dir).unwrap();
    let read = RelayKeys::load(&dir).unwrap().unwrap();
    assert_eq!(read.identity.public(), made.identity.public());
    assert_eq!(
        (read.onion.public(), read.link.public()),
        (made.onion.public(), made.link.public())
    );
    assert!(matches!(made.store(&dir), Err(StateError::Exists(_))));
    let authority = AuthorityKey(made.identity);
    authority.store(&dir).unwrap();
    assert_eq!(
        AuthorityKey::load(&dir).unwrap().0.public(),
        authority.0.public()
    );
}

#[test]
fn damaged_key_files_are_refused_at_every_length() {
    let (_temp, dir) = fresh();
    RelayKeys::generate(&mut rand::rng()).store(&dir).unwrap();
    let good = dir.read_secret(RELAY_KEYS_FILE).unwrap().unwrap();
    // Without the last line's end it is still whole.
    for len in 0..good.len() - 1 {
        dir.write_secret(RELAY_KEYS_FILE, &good[..len]).unwrap();
        assert!(
            matches!(RelayKeys::load(&dir), Err(StateError::BadKeys(_))),
            "{len} bytes"
        );
    }
    for tail in ["\n", "more", "é", "\0"] {
        let mut longer = good.to_vec();
        longer.extend_from_slice(tail.as_bytes());
        dir.write_secret(RELAY_KEYS_FILE, &longer).unwrap();
        assert!(RelayKeys::load(&dir).is_err(), "{tail:?}");
    }
}

#[test]
fn public_files_are_replaced_whole() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("relays.list");
    write_public(&path, b"old").unwrap();
    write_public(&path, b"public").unwrap();
    assert_eq!(mode(&path) & 0o600, 0o600);
    assert_eq!(fs::read(&path).unwrap(), b"public");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    assert!(write_public(Path::new("/"), b"x").is_err());
}

#[test]
fn a_descriptor_says_what_the_configuration_says() {
    let text = "nickname = 'r'\nlisten = ['0.0.0.0:4443']\naddresses = ['198.51.100.1:443']\nexit = true\n\
                policy = ['public']\ndays = 30\n";
    let config = RelayConfig::parse(text, Path::new("relay.toml")).unwrap();
    let keys = RelayKeys::generate(&mut rand::rng());
    let made = keys.describe(&config, 1000).unwrap();
    assert!(made.verify());
    assert_eq!(made.identity, keys.identity.public());
    assert_eq!(
        (made.onion, made.link),
        (keys.onion.public(), keys.link.public())
    );
    assert_eq!((made.published, made.expires), (1000, 1000 + 30 * 86_400));
    assert_eq!(made.addresses, config.addresses);
    let everywhere = RelayConfig {
        addresses: Vec::new(),
        ..config
    };
    assert_eq!(
        keys.describe(&everywhere, 0),
        Err(DescriptorError::Addresses)
    );
}
