//! Programs that know no proxy, inside `hushswarm run`: they reach servers through a private network of relays, by name
//! and by address, over TCP and UDP, and the host they run on speaks to guards alone.

use crate::support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hushswarm_circuits::path::PathRules;
use support::capture::Capture;
use support::network::Network;
use support::process::{Process, run};
use support::world::{Host, World};
use support::{PATIENCE, fixture, hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const RELAY_PORT: u16 = 9001;
const RELAYS: u8 = 4;
const GUARDS: usize = 2;
const EXITS: usize = 1;
/// Known to the exit's host alone.
const NAME: &str = "files.hushswarm-fixture.net";
/// Addresses of the server, last parts.
const FIRST: u8 = 150;
const LAST: u8 = 189;
const FILE_LEN: u64 = 24 << 20;

struct Scene {
    client: Host,
    server: Host,
    network: Network,
    dir: TempDir,
    _served: Process,
    _relays: Vec<Process>,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new() -> Option<Self> {
        let mut world = World::build()?;
        let (client, server) = (world.host("client", 250), world.host("server", FIRST));
        let hosts: Vec<Host> = (0..RELAYS)
            .map(|n| world.host(&format!("relay{n}"), 101 + n))
            .collect();
        let addrs: Vec<SocketAddr> = hosts.iter().map(|host| host.addr(RELAY_PORT)).collect();
        let dir = TempDir::new().unwrap();
        // All hosts share a prefix here, which relays of one path otherwise never do.
        let rules = PathRules {
            ipv4_prefix: 0,
            ipv6_prefix: 0,
        };
        let network = Network::at(dir.path(), &addrs, GUARDS, EXITS, rules);
        let known = dir.path().join("hosts");
        std::fs::write(&known, format!("{} {NAME}\n", server.ip4)).unwrap();
        let mut mount = hosts[usize::from(RELAYS) - 1].command("mount");
        run({
            mount.arg("--bind").arg(&known).arg("/etc/hosts");
            mount
        });
        let relays = hosts.iter().zip(&network.relays).map(|(host, relay)| {
            let mut command = host.command(PROGRAM);
            command.args(relay.args());
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        });
        let relays = relays.collect();
        let file = dir.path().join("blob");
        write_noise(&file, FILE_LEN, 3);
        for n in FIRST + 1..=LAST {
            let mut add = server.command("ip");
            add.args(["addr", "add", &format!("10.77.0.{n}/24"), "dev", "eth0"]);
            run(add);
        }
        let mut command = server.command("python3");
        command.arg(fixture("jail_server.py")).arg(&file).args([
            "10.77.0",
            &FIRST.to_string(),
            &LAST.to_string(),
        ]);
        let mut served = Process::spawn("server", command);
        served.wait_for_line(PATIENCE, |line| line == "ready");
        Some(Self {
            client,
            server,
            network,
            dir,
            _served: served,
            _relays: relays,
            _world: world,
        })
    }

    /// `hushswarm run` with its options; the program comes after `--`.
    fn jail(&self, options: &[&str]) -> Command {
        let mut command = self.client.command(PROGRAM);
        command
            .args(["run", "--allow-private"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--state"), &self.dir.path().join("state")])
            .args(options)
            .arg("--")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &[&str]) -> Output {
        self.jail(&[]).args(program).output().unwrap()
    }

    fn assert_good(&self, parts: &[&str]) {
        let script = fixture("jail_programs.py");
        let (ip4, ip6) = (self.server.ip4.to_string(), self.server.ip6.to_string());
        let (first, last) = (FIRST.to_string(), LAST.to_string());
        for part in parts {
            let output = self.run(&[
                "python3",
                script.to_str().unwrap(),
                part,
                NAME,
                &ip4,
                &ip6,
                "10.77.0",
                &first,
                &last,
            ]);
            assert_eq!(text(&output.stdout), "good", "{part}: {}", errors(&output));
        }
    }

    fn guards(&self) -> Vec<SocketAddr> {
        self.network.relays[..GUARDS]
            .iter()
            .map(|relay| relay.addr)
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn errors(output: &Output) -> String {
    format!("{}: {}", output.status, text(&output.stderr))
}

#[test]
fn programs_that_know_no_proxy_reach_servers_by_name_and_address_and_nothing_else_leaves() {
    let Some(scene) = Scene::new() else { return };
    let capture = Capture::start(&scene.client, &[NAME.as_bytes()]);
    scene.assert_good(&[
        "names",
        "streams",
        "half_close",
        "reset",
        "refused",
        "datagrams",
    ]);
    let captured = capture.stop();
    captured.assert_only_to(&scene.guards());
    assert!(captured.found(0).is_empty(), "a name in the clear");
}

#[test]
fn curl_and_getent_work_without_any_setting() {
    let Some(scene) = Scene::new() else { return };
    let capture = Capture::start(&scene.client, &[NAME.as_bytes()]);
    let url = format!("http://{NAME}/blob");
    let blob = scene.dir.path().join("blob");
    let got = scene.dir.path().join("got");
    let to = got.to_str().unwrap();
    let output = scene.run(&["curl", "-sS", "--noproxy", "*", "-o", to, &url]);
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(hash_file(&got), hash_file(&blob));

    let file = format!("@{}", blob.display());
    let output = scene.run(&[
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "-H",
        "Expect:",
        "--data-binary",
        &file,
        &url,
    ]);
    let mut sum = Command::new("sha256sum");
    sum.arg(&blob);
    let expected = run(sum).split(' ').next().unwrap().to_owned();
    assert_eq!(text(&output.stdout), expected, "{}", errors(&output));

    let output = scene.run(&["getent", "hosts", NAME]);
    assert!(
        text(&output.stdout).starts_with("198.1"),
        "{}",
        errors(&output)
    );
    // There are no virtual IPv6 addresses: it says that there is none, at once.
    let output = scene.run(&["curl", "-6", "-sS", "--noproxy", "*", &url]);
    assert!(
        matches!(output.status.code(), Some(6 | 7)),
        "{}",
        errors(&output)
    );
    capture.stop().assert_only_to(&scene.guards());
}

#[test]
fn a_published_port_leads_to_the_web_page_of_a_program_inside_and_from_this_host_alone() {
    let Some(scene) = Scene::new() else { return };
    let folder = scene.dir.path().join("page");
    std::fs::create_dir(&folder).unwrap();
    write_noise(&folder.join("index.html"), 5 << 20, 9);
    let page = folder.to_str().unwrap();
    let mut jail = scene.jail(&["--publish", "8099:8080"]);
    jail.args([
        "python3",
        "-m",
        "http.server",
        "8080",
        "--bind",
        "127.0.0.1",
    ])
    .args(["--directory", page]);
    let mut jail = Process::spawn("jail", jail);
    let got = scene.dir.path().join("page.got");
    jail.wait_until(PATIENCE, |_| {
        let mut curl = scene.client.command("curl");
        curl.args(["-sS", "--max-time", "60", "http://127.0.0.1:8099/", "-o"])
            .arg(&got);
        curl.output().unwrap().status.success().then_some(())
    });
    assert_eq!(hash_file(&got), hash_file(&folder.join("index.html")));
    let mut curl = scene.server.command("curl");
    let url = format!("http://{}:8099/", scene.client.ip4);
    curl.args(["-sS", "--max-time", "10", &url]);
    assert!(!curl.output().unwrap().status.success());
    jail.kill();
    let refused = scene
        .jail(&["--publish", "0.0.0.0:8099:8080"])
        .arg("true")
        .output()
        .unwrap();
    assert!(!refused.status.success(), "{}", errors(&refused));
}
