//! Why a jail can't be had here, and what to do about it: found out by looking at the machine.

use std::fs;
use std::io;
use std::path::Path;

use super::message::Step;
use crate::error::{Error, Kind};

/// What a kernel and its surroundings say about namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `kernel.unprivileged_userns_clone` (Debian's kernels).
    userns_clone: Option<i64>,
    /// `user.max_user_namespaces`.
    max_user_namespaces: Option<i64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu's kernels).
    apparmor_restricts: Option<i64>,
    /// Whether this is the inside of a container.
    container: bool,
    /// Whether a filter of system calls is already at work.
    filtered: bool,
    /// Where this program lies.
    program: String,
}

impl Facts {
    /// Looks.
    pub(super) fn of_this_machine() -> Self {
        let mut facts = Self::below(Path::new("/"));
        facts.program = std::env::current_exe()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        facts
    }

    fn below(root: &Path) -> Self {
        let number = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            text.trim().parse().ok()
        };
        let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
        Self {
            userns_clone: number("proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: number("proc/sys/user/max_user_namespaces"),
            apparmor_restricts: number("proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            container: root.join(".dockerenv").exists() || root.join("run/.containerenv").exists(),
            filtered: status
                .lines()
                .any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
            program: String::new(),
        }
    }
}

/// What is known to forbid an ordinary user's jails on this machine, and what to do about it; `None` where nothing is. Root makes
/// namespaces without asking these settings.
pub fn obstacle() -> Option<String> {
    let facts = Facts::of_this_machine();
    let forbids = facts.userns_clone == Some(0)
        || facts.max_user_namespaces == Some(0)
        || facts.apparmor_restricts == Some(1);
    let asked = forbids && !rustix::process::geteuid().is_root();
    asked.then(|| hint(Step::Namespaces, 0, &facts)).flatten()
}

const CONTAINER: &str = "this looks like a container, which forbids it: start the container with \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined, \
    or run hushswarm outside of it";

fn apparmor(program: &str) -> String {
    format!(
        "AppArmor lets no program make namespaces that has no profile (kernel.apparmor_restrict_unprivileged_userns=1). Give \
         it one, as root: write the next lines to /etc/apparmor.d/hushswarm and run \
         \"apparmor_parser -r /etc/apparmor.d/hushswarm\"\n\
         abi <abi/4.0>,\n\
         profile hushswarm {program} flags=(unconfined) {{\n\
         \x20 userns,\n\
         }}"
    )
}

/// The error for the user.
pub(super) fn explain(step: Step, errno: i32, detail: &str, facts: &Facts) -> Error {
    let what = match step {
        Step::Namespaces | Step::Identity => "this system lets you make no jail",
        Step::Warden => "the jail can't be started",
        Step::Network => "the jail's network can't be set up",
        Step::Proc => "the jail can't have a /proc of its own",
        Step::Mounts => "the jail can't cover what leads outside",
        Step::Doors => "the jail's doors can't be made",
        Step::Program => "the program can't be started",
    };
    let what = if detail.is_empty() || step == Step::Proc {
        format!("{what}, so the program was not started")
    } else {
        format!("{what} ({detail}), so the program was not started")
    };
    let mut error = Error::new(Kind::Local, what);
    if errno != 0 {
        error = error.with_source(io::Error::from_raw_os_error(errno));
    }
    match hint(step, errno, facts) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn hint(step: Step, errno: i32, facts: &Facts) -> Option<String> {
    if facts.userns_clone == Some(0) && step == Step::Namespaces {
        return Some(
            "user namespaces are switched off; as root: sysctl -w kernel.unprivileged_userns_clone=1 (and a line in \
             /etc/sysctl.d/ to keep it)"
                .to_owned(),
        );
    }
    if facts.max_user_namespaces == Some(0) && step == Step::Namespaces {
        return Some(
            "no user namespace is allowed; as root: sysctl -w user.max_user_namespaces=10000 (and a line in \
             /etc/sysctl.d/ to keep it)"
                .to_owned(),
        );
    }
    if facts.apparmor_restricts == Some(1) {
        return Some(apparmor(&facts.program));
    }
    if facts.container || facts.filtered {
        return Some(CONTAINER.to_owned());
    }
    match (step, errno) {
        (Step::Namespaces, nix::libc::EINVAL | nix::libc::ENOSYS) => Some(
            "the kernel was built without user, network or PID namespaces: use another kernel, or \"hushswarm proxy\""
                .to_owned(),
        ),
        (Step::Namespaces, nix::libc::ENOSPC | nix::libc::EUSERS) => Some(
            "there are too many namespaces already, or too deep in each other: see /proc/sys/user/max_*_namespaces"
                .to_owned(),
        ),
        (Step::Namespaces, _) => Some(
            "a security module or an outer sandbox forbids new namespaces: try outside of it, or as root".to_owned(),
        ),
        (Step::Identity, _) => Some(
            "the outer sandbox lets no user be mapped: try outside of it, or as another user than root".to_owned(),
        ),
        (Step::Proc, _) => Some(
            "parts of /proc are covered here, as containers do, and the kernel then allows no new one: start the container with \
             --security-opt systempaths=unconfined, or run hushswarm outside of it"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Facts {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Facts::below(root.path())
    }

    fn shown(step: Step, errno: i32, facts: &Facts) -> String {
        let mut out = Vec::new();
        explain(step, errno, "", facts).report(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_cause_has_its_own_way_out() {
        let eperm = nix::libc::EPERM;
        type Case = (
            &'static [(&'static str, &'static str)],
            Step,
            i32,
            &'static str,
        );
        let cases: [Case; 8] = [
            (
                &[("proc/sys/kernel/unprivileged_userns_clone", "0\n")],
                Step::Namespaces,
                eperm,
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                &[("proc/sys/user/max_user_namespaces", "0\n")],
                Step::Namespaces,
                nix::libc::ENOSPC,
                "user.max_user_namespaces=",
            ),
            (
                &[(
                    "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                    "1\n",
                )],
                Step::Identity,
                nix::libc::EACCES,
                "profile hushswarm",
            ),
            (
                &[(".dockerenv", "")],
                Step::Namespaces,
                eperm,
                "seccomp=unconfined",
            ),
            (
                &[("proc/self/status", "Name:\tx\nSeccomp:\t2\n")],
                Step::Namespaces,
                eperm,
                "seccomp=unconfined",
            ),
            (&[], Step::Namespaces, nix::libc::ENOSYS, "built without"),
            (&[], Step::Proc, eperm, "systempaths=unconfined"),
            (&[], Step::Identity, eperm, "mapped"),
        ];
        for (files, step, errno, expected) in cases {
            let text = shown(step, errno, &machine(files));
            assert!(text.contains("the program was not started"), "{text}");
            assert!(text.contains("hint: "), "{text}");
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn switches_that_are_on_are_not_blamed() {
        let facts = machine(&[
            ("proc/sys/kernel/unprivileged_userns_clone", "1\n"),
            ("proc/sys/user/max_user_namespaces", "90000\n"),
            (
                "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "0\n",
            ),
            ("proc/self/status", "Seccomp:\t0\n"),
        ]);
        let text = shown(Step::Namespaces, nix::libc::EPERM, &facts);
        assert!(text.contains("security module"), "{text}");
    }
}
