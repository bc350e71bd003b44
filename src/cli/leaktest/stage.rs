//! Namespaces: the world's own, and the one of the computer that the program runs on. Made by `unshare`, `nsenter` and
//! `ip`, as root or by an ordinary user inside a user namespace.
//!
//! The world lives in its own PID namespace, so all that was started in it ends with it; and it ends when the command
//! that started it closes its input.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use super::addresses::{GATEWAY_V4, GATEWAY_V6, YOU_V4, YOU_V6};
use crate::error::Error;

/// First argument of the process that is the world.
pub(super) const MARKER: &str = "__leaktest-world";
/// The world's end of the cable.
pub(super) const CABLE: &str = "world0";

/// Network, mount and PID namespaces; `--kill-child` ends what is inside when `unshare` itself is killed.
const FLAGS: [&str; 5] = ["-n", "-m", "-p", "--fork", "--kill-child"];
/// A user namespace before them, for those who are not root.
const USER_FLAGS: [&str; 2] = ["-U", "-r"];

/// The world's side. `$1` is its `resolv.conf`. Sockets below `/run` lead to services outside (name service caches,
/// D-Bus, avahi), which would ask the real network: they go, but for what NixOS keeps its programs behind.
const WORLD: &str = r#"
if [ -d /run ]; then
    system=$(readlink /run/current-system || true)
    mount -t tmpfs -o mode=755 tmpfs /run
    [ -z "$system" ] || ln -s "$system" /run/current-system
fi
[ -L /var/run ] || [ ! -d /var/run ] || mount -t tmpfs -o mode=755 tmpfs /var/run
if [ ! -e /etc/resolv.conf ]; then
    file=$(readlink -m /etc/resolv.conf)
    mkdir -p "$(dirname "$file")"
    : >"$file"
fi
mount --bind "$1" /etc/resolv.conf
ip link set lo up
ip link add world0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02
cd /proc/sys/net/ipv6/conf/world0
echo 0 > accept_dad; echo 0 > accept_ra
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind
ip addr add GATEWAY_V4/24 dev world0
ip addr add GATEWAY_V6/64 dev world0 nodad
ip link set world0 up
ip neigh replace YOU_V4 lladdr 02:00:00:00:00:02 nud permanent dev world0
ip neigh replace YOU_V6 lladdr 02:00:00:00:00:02 nud permanent dev world0
ip route add local 11.0.0.0/8 dev lo
ip route add local 22.0.0.0/8 dev lo
ip -6 route add local 2a77:22::/32 dev lo
ip route add unreachable default
ip -6 route add unreachable default
"#;

/// What the program's computer does first, and until its input closes.
const HOLDER: &str = r"
mount -t sysfs sysfs /sys 2>/dev/null || true
ip link set lo up
echo ready
exec cat >/dev/null
";

/// Plugs the cable in. The neighbour is known from the start, and the kernel's own chatter is off or done with at once, so
/// that what is captured comes from programs.
const PLUG: &str = r"
cd /proc/sys/net/ipv6/conf/eth0
echo 0 > accept_dad; echo 0 > accept_ra; echo 0 > router_solicitations
echo 1 > mldv2_unsolicited_report_interval; echo 1 > mldv1_unsolicited_report_interval
ip addr add YOU_V4/24 dev eth0
ip addr add YOU_V6/64 dev eth0 nodad
ip link set eth0 up
ip neigh replace GATEWAY_V4 lladdr 02:00:00:00:00:01 nud permanent dev eth0
ip neigh replace GATEWAY_V6 lladdr 02:00:00:00:00:01 nud permanent dev eth0
ip route add default via GATEWAY_V4
ip -6 route add default via GATEWAY_V6
";

fn script(text: &str) -> String {
    text.replace("GATEWAY_V4", &GATEWAY_V4.to_string())
        .replace("GATEWAY_V6", &GATEWAY_V6.to_string())
        .replace("YOU_V4", &YOU_V4.to_string())
        .replace("YOU_V6", &YOU_V6.to_string())
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .last()
        .unwrap_or("it did not say why")
        .trim()
        .to_owned()
}

fn run(mut command: Command, what: &str) -> Result<(), Error> {
    let output = command
        .output()
        .map_err(|source| Error::local(format!("can't {what}")).with_source(source))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::local(format!("can't {what}: {}", said(&output))))
}

/// Looks whether namespaces can be made here, and how.
///
/// # Errors
/// They can't: what is missing, and what to do.
pub(super) fn how() -> Result<Vec<&'static str>, Error> {
    for (program, package) in [
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
    ] {
        let found = Command::new(program)
            .arg("-V")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            let what = format!("the leak test needs the program \"{program}\"");
            return Err(Error::local(what)
                .with_hint(format!("install the package {package} of your system")));
        }
    }
    let plain: Vec<&str> = FLAGS.to_vec();
    let user: Vec<&str> = USER_FLAGS.iter().chain(&FLAGS).copied().collect();
    let ways = if rustix::process::geteuid().is_root() {
        vec![plain, user]
    } else {
        vec![user]
    };
    let mut reason = String::new();
    for flags in ways {
        let tried = Command::new("unshare")
            .args(&flags)
            .args(["--mount-proc", "--", "ip", "link", "set", "lo", "up"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Ok(output) if output.status.success() => return Ok(flags),
            Ok(output) => reason = said(&output),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(Error::local(format!("can't make a world of its own here: {reason}")).with_hint(
        "the leak test needs user namespaces: as root, \"sysctl -w kernel.unprivileged_userns_clone=1\" (Debian), \
         \"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\" (Ubuntu), or run it as root",
    ))
}

/// The command that runs this program as the world.
pub(super) fn world(flags: &[&str], exe: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(flags)
        .args(["--mount-proc", "--"])
        .arg(exe)
        .arg(MARKER);
    command
}

/// Inside the world: its network, and the file that names its name server.
///
/// # Errors
/// What the system refused.
pub(super) fn set_up_world(dir: &Path) -> Result<(), Error> {
    let resolv = dir.join("resolv.conf");
    let text = format!("nameserver {GATEWAY_V4}\noptions timeout:1 attempts:2\n");
    std::fs::write(&resolv, text)
        .map_err(|source| Error::local("can't write the world's files").with_source(source))?;
    let mut sh = Command::new("sh");
    sh.args(["-ec", &script(WORLD), "world"])
        .arg(&resolv)
        .stdin(Stdio::null());
    run(sh, "set the world up")
}

/// The namespaces of the program's computer. They live as long as this.
pub(super) struct Computer {
    holder: Child,
    /// Its end ends the holder.
    _input: ChildStdin,
}

impl Computer {
    /// Makes them, and plugs the cable in.
    ///
    /// # Errors
    /// What the system refused.
    pub(super) fn start() -> Result<Self, Error> {
        let failed =
            |source| Error::local("can't make the program's namespaces").with_source(source);
        let mut holder = Command::new("unshare")
            .args(["-n", "-m", "--", "sh", "-ec", HOLDER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let ended = || failed(std::io::ErrorKind::BrokenPipe.into());
        let input = holder.stdin.take().ok_or_else(ended)?;
        let mut line = String::new();
        let output = holder.stdout.take().ok_or_else(ended)?;
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(failed)?;
        if line.trim() != "ready" {
            return Err(ended());
        }
        let computer = Self {
            holder,
            _input: input,
        };
        let mut ip = Command::new("ip");
        ip.args(["link", "set", "eth0", "netns"])
            .arg(computer.holder.id().to_string());
        run(ip, "give the program a cable")?;
        let mut plug = computer.command("sh");
        plug.args(["-ec", &script(PLUG)]);
        run(plug, "plug the program's cable in")?;
        Ok(computer)
    }

    /// A command inside. It starts in `/` with this process's environment.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t",
                &self.holder.id().to_string(),
                "-n",
                "-m",
                "--",
                program,
            ])
            .stdin(Stdio::null());
        command
    }

    /// A file of the kernel about this computer's network, such as `tcp6`.
    pub(super) fn net_file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/net/{name}", self.holder.id()))
    }
}

impl Drop for Computer {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Number of the world's end of the cable, and packets that it received, by `/proc/net/dev`.
pub(super) fn cable() -> Option<(u32, u64)> {
    let dev = std::fs::read_to_string("/proc/net/dev").ok()?;
    let output = Command::new("ip")
        .args(["-o", "link", "show", "dev", CABLE])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = shown.split(':').next()?.trim().parse().ok()?;
    Some((number, received(&dev)?))
}

/// The second number after the interface's name counts received packets.
fn received(dev: &str) -> Option<u64> {
    let line = dev
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(CABLE)?.strip_prefix(':'))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_read_from_the_kernels_table() {
        let dev = "Inter-|   Receive\n face |bytes    packets errs\n    lo: 1 2 0 0\nworld0:  900      7    0    0 0 0 0 0 1 1\n";
        assert_eq!(received(dev), Some(7));
        assert_eq!(received("world01: 1 2"), None);
    }

    #[test]
    fn scripts_hold_the_worlds_addresses() {
        assert!(script(PLUG).contains("ip route add default via 33.10.0.1\n"));
        assert!(!script(WORLD).contains("_V"));
    }
}
