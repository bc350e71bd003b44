//! A private network whose relays run as processes of the real program, clients of it, and servers to reach through it.
//!
//! Each world has loopback addresses of its own, so that tests run side by side.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hushswarm::cli::relay::DESCRIPTOR_FILE;
use hushswarm::config::{NetworkFile, RELAY_CONFIG_FILE, RelayConfig, unix_now};
use hushswarm::net::os::OsDialer;
use hushswarm::overlay::client::{Client, ClientConfig, GuardStore};
use hushswarm::state::{RelayKeys, StateDir, write_public};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::{IdentityKey, RelayId};
use hushswarm_circuits::path::{GuardSample, PathRules};
use hushswarm_circuits::relay_list::{Descriptor, Draft, ExitPolicy, RelayList, Roles, Trust};
use hushswarm_circuits::target::Target;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

pub const NETWORK: &str = "test";
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// What a world is made of.
#[derive(Clone)]
pub struct Recipe {
    pub relays: usize,
    /// Guards are the first ones.
    pub guards: usize,
    /// Exits are the last ones.
    pub exits: usize,
    pub policy: Vec<&'static str>,
    /// What each relay is started with beside its folder.
    pub args: Vec<&'static str>,
    /// Changes a relay's configuration before its descriptor is signed.
    pub configure: fn(usize, &mut RelayConfig),
}

impl Recipe {
    /// Relays that are all guards and serve the list; the last of them lets everything out.
    pub fn new(relays: usize) -> Self {
        Self {
            relays,
            guards: relays,
            exits: 1,
            policy: vec!["accept * *:1-65535"],
            args: Vec::new(),
            configure: |_, _| {},
        }
    }

    pub fn build(self) -> World {
        World::new(self)
    }

    pub fn start(self) -> World {
        let mut world = World::new(self);
        (0..world.relays.len()).for_each(|n| world.start(n));
        world
    }
}

/// A relay's folder, and its process while it runs.
pub struct Relay {
    pub state: PathBuf,
    pub addr: SocketAddr,
    pub id: RelayId,
    pub process: Option<Process>,
}

/// A network on this machine.
pub struct World {
    pub dir: TempDir,
    pub relays: Vec<Relay>,
    pub file: PathBuf,
    pub list: Arc<RelayList>,
    pub authority: IdentityKey,
    pub descriptors: Vec<Descriptor>,
    pub args: Vec<&'static str>,
    number: u32,
    clients: AtomicU32,
}

impl World {
    fn new(recipe: Recipe) -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let mut relays = Vec::new();
        let mut descriptors = Vec::new();
        for n in 0..recipe.relays {
            let addr = SocketAddr::new(address(10 + n as u8, number), 4000 + n as u16);
            let mut config = RelayConfig::new(format!("relay{}", n + 1), vec![addr]);
            let exit = n + recipe.exits >= recipe.relays;
            config.roles = Roles {
                guard: n < recipe.guards,
                exit,
                list: true,
                dht: false,
                introduce: false,
            };
            config.bandwidth = 100_000;
            if exit {
                config.policy = ExitPolicy::from_texts(&recipe.policy).unwrap();
            }
            (recipe.configure)(n, &mut config);
            let keys = RelayKeys::generate(&mut rand::rng());
            let descriptor = keys.describe(&config, unix_now() - 60).unwrap();
            let state = dir.path().join(&config.nickname);
            let folder = StateDir::open(&state).unwrap();
            keys.store(&folder).unwrap();
            let text = config.to_toml().unwrap();
            folder.write(RELAY_CONFIG_FILE, text.as_bytes()).unwrap();
            folder.write(DESCRIPTOR_FILE, descriptor.bytes()).unwrap();
            relays.push(Relay {
                state,
                addr,
                id: descriptor.identity,
                process: None,
            });
            descriptors.push(descriptor);
        }
        let authority = IdentityKey::generate(&mut rand::rng());
        let file = dir.path().join("network.toml");
        let network = NetworkFile {
            name: NETWORK.to_owned(),
            authorities: vec![authority.public()],
            threshold: 1,
            list: PathBuf::from("relays.list"),
            rules: PathRules::default(),
        };
        write_public(&file, network.to_toml().unwrap().as_bytes()).unwrap();
        let now = unix_now();
        let bytes = sign(&authority, &descriptors, now - 60, now + 86_400);
        write_public(&dir.path().join("relays.list"), &bytes).unwrap();
        let trust = Trust {
            network: NETWORK.to_owned(),
            authorities: vec![authority.public()],
            threshold: 1,
        };
        let list = Arc::new(RelayList::decode_verified(&bytes, &trust, now).unwrap());
        Self {
            dir,
            relays,
            file,
            list,
            authority,
            descriptors,
            args: recipe.args,
            number,
            clients: AtomicU32::new(0),
        }
    }

    /// The command line of a relay.
    pub fn command(&self, n: usize) -> Command {
        let relay = &self.relays[n];
        let mut command = Command::new(PROGRAM);
        command
            .args(["relay", "--log", "trace"])
            .arg("--state")
            .arg(&relay.state)
            .arg("--network")
            .arg(&self.file)
            .args(["--source", &relay.addr.ip().to_string()])
            .args(&self.args);
        command
    }

    /// Starts a relay and waits until it listens.
    pub fn start(&mut self, n: usize) {
        self.relays[n].process = Some(Process::start(self.command(n)));
    }

    pub fn process(&self, n: usize) -> &Process {
        self.relays[n].process.as_ref().unwrap()
    }

    /// Ends a relay as a crash would.
    pub fn kill(&mut self, n: usize) {
        self.relays[n].process.take().unwrap().kill();
    }

    /// The place of a relay among ours.
    pub fn place(&self, id: &RelayId) -> usize {
        self.relays
            .iter()
            .position(|relay| relay.id == *id)
            .unwrap()
    }

    /// Signs a list of all relays for this time, and writes it to a file.
    pub fn write_list(&self, name: &str, from: u64, until: u64) -> Vec<u8> {
        let bytes = sign(&self.authority, &self.descriptors, from, until);
        write_public(&self.dir.path().join(name), &bytes).unwrap();
        bytes
    }

    /// An address that nobody else has.
    pub fn client_ip(&self) -> IpAddr {
        let n = self.clients.fetch_add(1, Ordering::Relaxed);
        address(200 + n as u8, self.number)
    }

    pub fn client(&self, hops: usize) -> Client {
        let config = ClientConfig {
            hops,
            prebuilt: 0,
            ..ClientConfig::default()
        };
        self.client_with(config, GuardSample::default(), None)
    }

    pub fn client_with(
        &self,
        config: ClientConfig,
        guards: GuardSample,
        store: Option<Box<dyn GuardStore>>,
    ) -> Client {
        self.client_at(self.client_ip(), config, guards, store)
    }

    /// A client whose connections come from this address.
    pub fn client_at(
        &self,
        from: IpAddr,
        config: ClientConfig,
        guards: GuardSample,
        store: Option<Box<dyn GuardStore>>,
    ) -> Client {
        let dialer = Arc::new(OsDialer::new(Some(from)));
        Client::new(Arc::clone(&self.list), guards, store, dialer, config)
    }

    /// Checks that no relay that runs has panicked.
    pub fn assert_sound(&self) {
        for process in self
            .relays
            .iter()
            .filter_map(|relay| relay.process.as_ref())
        {
            let log = process.log();
            assert!(!log.contains("panicked"), "a relay panicked:\n{log}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_sound();
        }
    }
}

fn address(net: u8, world: u32) -> IpAddr {
    // Two processes at once are told apart by their ids.
    let process = (std::process::id() % 250) as u8 + 1;
    Ipv4Addr::new(127, net, process, world as u8 + 1).into()
}

pub fn sign(authority: &IdentityKey, relays: &[Descriptor], from: u64, until: u64) -> Vec<u8> {
    let mut draft = Draft::new(NETWORK, from, until, relays.to_vec()).unwrap();
    draft.sign(authority);
    draft.encode().unwrap()
}

/// A child process whose log is kept; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a relay and waits until it says that it listens.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (kept, from) = (Arc::clone(&log), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let process = Self {
            child,
            log,
            reader: Some(reader),
        };
        assert!(line.contains("listens on"), "{line:?}\n{}", process.log());
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended; gives how, and the whole log.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    /// Memory in use, KiB.
    pub fn rss(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Open files, sockets among them.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// A number of /proc/PID/status.
    pub fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process is ended too by SIGKILL.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn key(owner: &str) -> Isolation {
    Isolation::new("test", owner.as_bytes(), 0)
}

/// Waits until something holds; the time is only there to fail instead of hanging.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn listen() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::ip(listener.local_addr().unwrap());
    (listener, target)
}

/// A server that does the same with each connection.
pub async fn serve<F: Future<Output = ()> + Send + 'static>(
    with: impl Fn(TcpStream) -> F + Send + 'static,
) -> Target {
    let (listener, target) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(with(stream));
        }
    });
    target
}

/// A server that sends back what comes, and ends when its peer has ended.
pub async fn echo() -> Target {
    serve(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        if tokio::io::copy(&mut from, &mut to).await.is_ok() {
            let _ = to.shutdown().await;
        }
    })
    .await
}

/// A server that sends back each datagram.
pub async fn udp_echo(bind: &str) -> Target {
    let socket = UdpSocket::bind(bind).await.unwrap();
    let target = Target::ip(socket.local_addr().unwrap());
    tokio::spawn(async move {
        let mut buf = vec![0; 65_536];
        loop {
            let (n, from) = socket.recv_from(&mut buf).await.unwrap();
            let _ = socket.send_to(&buf[..n], from).await;
        }
    });
    target
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Sends bytes to an echo and checks that they come back; then both sides end.
pub async fn round_trip(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: Vec<u8>) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut back = Vec::new();
    let send = async {
        to.write_all(&bytes).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let receive = async { from.read_to_end(&mut back).await.unwrap() };
    tokio::join!(send, receive);
    assert!(
        back == bytes,
        "{} of {} bytes came back, or others",
        back.len(),
        bytes.len()
    );
}
