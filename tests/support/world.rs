//! A small internet of network namespaces on one Ethernet: hosts that could all reach each other, and a gateway.
//!
//! Each host has `10.77.0.N` (of `10.77.0.0/16`) and `fd77::N`, a default route over the gateway (`.1`, which knows no further way and
//! says so), a resolver in `/etc/resolv.conf` (the gateway, which does not answer), and its own `lo` and `/sys`. So a
//! program that tries to reach the world directly finds every door open, and a [`capture`](super::capture) sees it.
//!
//! A namespace lives as long as the process that holds it, and that one ends when its input closes, so nothing stays
//! behind however a test dies, and no name of the machine is used. Root makes the namespaces as they are; an ordinary
//! user makes them inside a user namespace, where the kernel allows that.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::run;

/// Last part of the gateway's addresses.
const GATEWAY: u8 = 1;

/// What every namespace does first. `$1` is its `resolv.conf`.
const HOLDER: &str = r#"
mount -t sysfs sysfs /sys 2>/dev/null || true
mount --bind "$1" /etc/resolv.conf
ip link set lo up
echo ready
exec cat >/dev/null
"#;

/// Makes the switch and its gateway address.
const SWITCH: &str = r"
ip link add br0 type bridge stp_state 0 mcast_snooping 0
echo 0 > /proc/sys/net/ipv6/conf/br0/accept_dad
ip addr add 10.77.0.1/16 dev br0
ip addr add fd77::1/64 dev br0 nodad
ip link set br0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
";

/// Configures a host's end of its cable (`$1` is its number). The kernel's own chatter is off or done with at once,
/// so that what a capture sees comes from programs.
const PLUG: &str = r"
cd /proc/sys/net/ipv6/conf/eth0
echo 0 > accept_dad; echo 0 > accept_ra; echo 0 > router_solicitations
echo 1 > mldv2_unsolicited_report_interval; echo 1 > mldv1_unsolicited_report_interval
ip addr add 10.77.0.$1/16 dev eth0
ip addr add fd77::$1/64 dev eth0 nodad
ip link set eth0 up
ip route add default via 10.77.0.1
ip -6 route add default via fd77::1
";

/// The hosts of one test. All ends when it is dropped, programs that still run in it too.
pub struct World {
    // In order of dropping: hosts, then what they are plugged into.
    hosts: Vec<Namespace>,
    switch: Namespace,
    resolv_conf: PathBuf,
    _folder: TempDir,
}

/// One machine of a [`World`].
#[derive(Clone, Debug)]
pub struct Host {
    enter: Vec<String>,
    switch: Vec<String>,
    /// What it is called in messages.
    pub name: String,
    /// Name of the switch's end of its cable.
    pub cable: String,
    /// Its IPv4 address.
    pub ip4: Ipv4Addr,
    /// Its IPv6 address.
    pub ip6: Ipv6Addr,
}

impl World {
    /// Makes an empty world, or says why it can't be here (see [`skip`](super::skip)) and gives `None`.
    pub fn build() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        fs::write(
            &resolv_conf,
            format!("nameserver {}\noptions timeout:1\n", ip4(GATEWAY)),
        )
        .unwrap();
        let root = rustix::process::geteuid().is_root();
        let flags: &[&str] = if root {
            &["-n", "-m"]
        } else {
            &["-U", "-r", "-n", "-m"]
        };
        let mut unshare = Command::new("unshare");
        unshare.args(flags);
        match Namespace::hold(unshare, root, &resolv_conf) {
            Ok(switch) => {
                run(switch.script(SWITCH, &[]));
                Some(Self {
                    hosts: Vec::new(),
                    switch,
                    resolv_conf,
                    _folder: folder,
                })
            }
            Err(reason) => {
                super::skip(&format!("network namespaces can't be made here: {reason}"));
                None
            }
        }
    }

    /// Adds a host with the addresses `10.77.0.number` and `fd77::number` (2 to 254, in decimal digits both).
    pub fn host(&mut self, name: &str, number: u8) -> Host {
        assert!(
            number > GATEWAY && number < 255,
            "{number} is no host number"
        );
        let mut unshare = self.switch.command("unshare");
        unshare.args(["-n", "-m"]);
        let namespace = Namespace::hold(unshare, self.switch.root, &self.resolv_conf).unwrap();
        let cable = format!("to{number}");
        let holder = namespace.holder.id().to_string();
        let plug =
            "ip link add $1 type veth peer name eth0 netns $2 && ip link set $1 master br0 up";
        run(self.switch.script(plug, &[&cable, &holder]));
        run(namespace.script(PLUG, &[&number.to_string()]));
        let host = Host {
            enter: namespace.enter(),
            switch: self.switch.enter(),
            name: name.to_owned(),
            cable,
            ip4: ip4(number),
            ip6: ip6(number),
        };
        self.hosts.push(namespace);
        host
    }
}

impl Host {
    /// A program inside this host. It starts in `/` with this process's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command(&self.enter, program.as_ref())
    }

    /// A program on the switch, where this host's cable ends.
    pub fn switch_command(&self, program: impl AsRef<OsStr>) -> Command {
        command(&self.switch, program.as_ref())
    }

    /// Its IPv4 address with a port.
    pub fn addr(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip4.into(), port)
    }

    /// Its IPv6 address with a port.
    pub fn addr6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip6.into(), port)
    }

    /// Whether an address is one of this host's.
    pub fn owns(&self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(self.ip4) || ip == IpAddr::V6(self.ip6)
    }

    /// Gives it more IPv4 addresses, `10.77.n.number` for each `n`: each in a network (/24) of its own, as the nodes of a DHT
    /// are elsewhere, and yet on the one cable.
    pub fn add_networks(&self, networks: std::ops::RangeInclusive<u8>) -> Vec<Ipv4Addr> {
        let last = self.ip4.octets()[3];
        let added: Vec<_> = networks.map(|n| Ipv4Addr::new(10, 77, n, last)).collect();
        let words: Vec<_> = added.iter().map(Ipv4Addr::to_string).collect();
        let mut script = self.command("sh");
        let add = "for ip in $1; do ip addr add $ip/32 dev eth0; done";
        run({
            script.args(["-ec", add, "script", &words.join(" ")]);
            script
        });
        added
    }

    /// Pulls the cable out, or plugs it in again.
    pub fn plug(&self, connected: bool) {
        let mut ip = self.switch_command("ip");
        ip.args([
            "link",
            "set",
            &self.cable,
            if connected { "up" } else { "down" },
        ]);
        run(ip);
    }
}

/// The gateway's IPv4 address, which is also the resolver's.
pub fn gateway() -> Ipv4Addr {
    ip4(GATEWAY)
}

fn ip4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn ip6(number: u8) -> Ipv6Addr {
    // The digits of the number, read as hexadecimal, so that both addresses look alike.
    format!("fd77::{number}").parse().unwrap()
}

fn command(enter: &[String], program: &OsStr) -> Command {
    let mut command = Command::new("nsenter");
    command.args(enter).arg("--").arg(program);
    command
}

/// A network and a mount namespace, kept by a process that waits for its input to close.
struct Namespace {
    holder: Child,
    _input: ChildStdin,
    root: bool,
    /// What `/proc/PID/ns/net` of its processes says.
    net: PathBuf,
}

impl Namespace {
    fn hold(mut unshare: Command, root: bool, resolv_conf: &PathBuf) -> Result<Self, String> {
        let mut holder = unshare
            .args(["--", "sh", "-ec", HOLDER, "holder"])
            .arg(resolv_conf)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let input = holder.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.trim() != "ready" {
            let output = holder.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let net = fs::read_link(format!("/proc/{}/ns/net", holder.id())).unwrap();
        Ok(Self {
            holder,
            _input: input,
            root,
            net,
        })
    }

    /// Arguments of `nsenter`.
    fn enter(&self) -> Vec<String> {
        let mut arguments = vec!["-t".to_owned(), self.holder.id().to_string()];
        let user: &[&str] = if self.root {
            &[]
        } else {
            &["-U", "--preserve-credentials"]
        };
        arguments.extend(
            user.iter()
                .chain(&["-n", "-m"])
                .map(|flag| (*flag).to_owned()),
        );
        arguments
    }

    fn command(&self, program: &str) -> Command {
        command(&self.enter(), program.as_ref())
    }

    fn script(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = self.command("sh");
        command.args(["-ec", script, "script"]).args(arguments);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for id in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let inside =
                fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|net| net == self.net);
            if let Some(id) = Pid::from_raw(id).filter(|_| inside) {
                // It may be gone already.
                let _ = kill_process(id, Signal::KILL);
            }
        }
        let _ = self.holder.wait();
    }
}
