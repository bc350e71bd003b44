//! Runs a test once more, inside namespaces of its own: a network with nothing but loopback, and files of `/etc` that
//! only it sees. For tests in which this process itself takes part.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

/// Set inside.
const INSIDE: &str = "HUSHSWARM_TEST_INSIDE";

/// `$1 $2` and so on are mounted over each other up to `--`; what follows is run.
const ENTER: &str = r#"
ip link set lo up
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"#;

/// Whether the test named `test` should go on: it is inside, and each of `files` (path and content) is in place. Outside, it
/// is run inside, must pass there, and is over; where namespaces can't be made, it is skipped.
pub fn inside(test: &str, files: &[(&str, &str)]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if root {
        &["-n", "-m"]
    } else {
        &["-U", "-r", "-n", "-m"]
    };
    let folder = TempDir::new().unwrap();
    let mut enter = Command::new("unshare");
    enter.args(flags).args(["--", "sh", "-ec", ENTER, "enter"]);
    for (number, (path, content)) in files.iter().enumerate() {
        let file = folder.path().join(number.to_string());
        fs::write(&file, content).unwrap();
        enter.arg(file).arg(path);
    }
    let mut unshare = Command::new("unshare");
    let possible = unshare.args(flags).args(["--", "true"]).output();
    match possible {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            super::skip(&format!("namespaces can't be made here: {reason}"));
            return false;
        }
        Err(error) => {
            super::skip(&format!("unshare: {error}"));
            return false;
        }
    }
    let status = enter
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "it failed inside: {status}");
    false
}
