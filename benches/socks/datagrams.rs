//! Datagrams through UDP ASSOCIATE. tor carries none, so there is no ratio to it: bare UDP through one program that
//! forwards stands beside, for scale.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::contender::{Forwarder, Hushswarm, socks_request};
use crate::cpu::{Cpu, median};

/// Payloads: a DHT query, a DNS answer, a uTP packet.
const LENGTHS: [usize; 3] = [100, 512, 1200];
/// Round trips under way at once.
const WINDOW: u64 = 64;
/// Round trips one at a time.
const SINGLES: usize = 300;
/// The highest rate with this part lost at most is looked for.
const LOSS: f64 = 0.01;
/// Steps of that search, each a third of what is left between what went and what did not.
const SEARCH: usize = 5;
/// After this pause, what has not come is lost.
const GIVE_UP: Duration = Duration::from_millis(200);
/// Sent without a look at the clock.
const BURST: u64 = 8;
/// Kernel buffer of the sink, as far as the system gives it.
const BUFFER: usize = 4 << 20;

/// A way to the far side.
enum Way {
    Proxy(Hushswarm),
    Bare(Forwarder),
}

/// The far side: counts what comes and, while told so, sends it back.
struct Far {
    addr: SocketAddr,
    came: Arc<AtomicU64>,
    echoes: Arc<AtomicBool>,
}

impl Far {
    fn start() -> Self {
        let socket = socket();
        let addr = socket.local_addr().unwrap();
        let (came, echoes) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, echo) = (Arc::clone(&came), Arc::clone(&echoes));
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            loop {
                let Ok((len, from)) = socket.recv_from(&mut buf) else {
                    continue;
                };
                assert!(buf[8..len].iter().all(|byte| *byte == 0x5a));
                count.fetch_add(1, Ordering::Relaxed);
                if echo.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&buf[..len], from);
                }
            }
        });
        Self { addr, came, echoes }
    }

    fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }
}

fn socket() -> UdpSocket {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    socket.bind(&any.into()).unwrap();
    socket.into()
}

/// The near side: what a program that uses the association does.
struct Near {
    socket: UdpSocket,
    /// SOCKS header (RFC 1928 §7), then payload.
    datagram: Vec<u8>,
    header: usize,
    /// The association lives as long as it.
    _control: Option<TcpStream>,
}

impl Near {
    fn new(way: &Way, far: SocketAddr, len: usize) -> Self {
        let (to, mut datagram, control) = match way {
            Way::Proxy(running) => {
                let mut control = TcpStream::connect(running.at).unwrap();
                let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let relay = socks_request(&mut control, 3, unknown).expect("UDP ASSOCIATE");
                (relay, udp_header(far), Some(control))
            }
            Way::Bare(forwarder) => (forwarder.at, Vec::new(), None),
        };
        let header = datagram.len();
        datagram.resize(header + len, 0x5a);
        let socket = socket();
        socket.connect(to).unwrap();
        Self {
            socket,
            datagram,
            header,
            _control: control,
        }
    }

    fn send(&mut self, number: u64) {
        self.datagram[self.header..self.header + 8].copy_from_slice(&number.to_be_bytes());
        // A full buffer on the way is a loss, which the far side notices.
        let _ = self.socket.send(&self.datagram);
    }

    /// Waits for an answer; `None` when there is none in time.
    fn recv(&self, buf: &mut [u8]) -> Option<u64> {
        let len = self.socket.recv(buf).ok()?;
        assert_eq!(len, self.datagram.len());
        let number = buf[self.header..self.header + 8].try_into().unwrap();
        Some(u64::from_be_bytes(number))
    }
}

fn udp_header(far: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(far) = far else {
        panic!("loopback is IPv4 here");
    };
    let mut header = vec![0, 0, 0, 1];
    header.extend(far.ip().octets());
    header.extend(far.port().to_be_bytes());
    header
}

impl Way {
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Proxy(running) => running.pids(),
            Self::Bare(forwarder) => vec![forwarder.child.id()],
        }
    }
}

/// What came of a rate.
struct Flood {
    sent_per_s: f64,
    came_per_s: f64,
    loss: f64,
    cpu_per_million: f64,
}

/// Sends at this rate, or as fast as it goes, one way.
fn flood(way: &Way, near: &mut Near, far: &Far, rate: Option<f64>, step: Duration) -> Flood {
    far.echoes.store(false, Ordering::Relaxed);
    let pids = way.pids();
    let (came, cpu, begun) = (far.came(), Cpu::of(&pids), Instant::now());
    let mut sent = 0;
    while begun.elapsed() < step {
        let due = rate.map_or(u64::MAX, |rate| {
            (begun.elapsed().as_secs_f64() * rate) as u64
        });
        if sent >= due {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        for _ in 0..BURST.min(due - sent) {
            near.send(sent);
            sent += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut last = far.came();
    loop {
        std::thread::sleep(GIVE_UP);
        let now = far.came();
        if now == last {
            break;
        }
        last = now;
    }
    let got = (last - came) as f64;
    Flood {
        sent_per_s: sent as f64 / seconds,
        came_per_s: got / seconds,
        loss: 1.0 - got / sent as f64,
        cpu_per_million: Cpu::of(&pids).since(cpu).all() / got * 1e6,
    }
}

/// The highest rate that arrives nearly whole, looked for below what a flood brought through.
fn sustained(way: &Way, near: &mut Near, far: &Far, flooded: f64, step: Duration) -> Option<Flood> {
    let (mut low, mut high, mut best) = (0.0, flooded * 1.5, None);
    for _ in 0..SEARCH {
        let rate = low + (high - low) * 2.0 / 3.0;
        let run = flood(way, near, far, Some(rate), step);
        if run.loss <= LOSS {
            low = rate;
            best = Some(run);
        } else {
            high = rate;
        }
    }
    best
}

/// Round trips per second with [`WINDOW`] under way, and processor seconds per million.
fn round_trips(way: &Way, near: &mut Near, far: &Far, step: Duration) -> (f64, f64) {
    far.echoes.store(true, Ordering::Relaxed);
    near.socket.set_read_timeout(Some(GIVE_UP)).unwrap();
    let pids = way.pids();
    let (cpu, begun, mut buf) = (Cpu::of(&pids), Instant::now(), [0; 2048]);
    let (mut number, mut back) = (0, 0_u64);
    for _ in 0..WINDOW {
        near.send(number);
        number += 1;
    }
    while begun.elapsed() < step {
        if near.recv(&mut buf).is_some() {
            back += 1;
            near.send(number);
            number += 1;
        } else {
            // All of a window was lost.
            (0..WINDOW).for_each(|_| near.send(number));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = Cpu::of(&pids).since(cpu).all();
    while near.recv(&mut buf).is_some() {}
    (back as f64 / seconds, cpu / back as f64 * 1e6)
}

/// Milliseconds there and back, one at a time.
fn alone_ms(near: &mut Near, far: &Far) -> f64 {
    far.echoes.store(true, Ordering::Relaxed);
    let mut buf = [0; 2048];
    let times = (0..SINGLES as u64).filter_map(|number| {
        let begun = Instant::now();
        near.send(number);
        let back = near.recv(&mut buf)?;
        (back == number).then(|| begun.elapsed().as_secs_f64() * 1e3)
    });
    median(times.collect())
}

/// Measures both ways, `rounds` times in turn, and prints medians.
pub(crate) fn bench(step: Duration, rounds: usize) {
    println!(
        "\nUDP ASSOCIATE through three relays, one flow, median of {rounds}; processor time of proxy and relays, or of the forwarder"
    );
    println!(
        "{:<28} {:>11} {:>7} {:>12} {:>11} {:>11} {:>12} {:>9}",
        "datagrams of",
        "flood: in/s",
        "lost",
        "<1% lost: /s",
        "CPU s per M",
        "trips/s",
        "CPU s per M",
        "trip ms"
    );
    let far = Far::start();
    let ways = [
        Way::Bare(Forwarder::start("--forward-udp", far.addr)),
        Way::Proxy(Hushswarm::start()),
    ];
    for len in LENGTHS {
        let mut rows: Vec<Vec<[f64; 7]>> = vec![Vec::new(); ways.len()];
        for _ in 0..rounds {
            for (way, rows) in ways.iter().zip(&mut rows) {
                let mut near = Near::new(way, far.addr, len);
                let (trips, trip_cpu) = round_trips(way, &mut near, &far, step);
                let alone = alone_ms(&mut near, &far);
                let flooded = flood(way, &mut near, &far, None, step);
                let best = sustained(way, &mut near, &far, flooded.came_per_s, step);
                let (rate, cpu) = best.map_or((0.0, flooded.cpu_per_million), |best| {
                    (best.sent_per_s, best.cpu_per_million)
                });
                rows.push([
                    flooded.came_per_s,
                    flooded.loss * 100.0,
                    rate,
                    cpu,
                    trips,
                    trip_cpu,
                    alone,
                ]);
            }
        }
        for (name, rows) in ["bare UDP, one forwarder", "hushswarm"].iter().zip(&rows) {
            let of = |n: usize| median(rows.iter().map(|row| row[n]).collect());
            println!(
                "{:<28} {:>11.0} {:>6.1}% {:>12.0} {:>11.1} {:>11.0} {:>12.1} {:>9.2}",
                format!("{len} bytes, {name}"),
                of(0),
                of(1),
                of(2),
                of(3),
                of(4),
                of(5),
                of(6)
            );
        }
    }
}

/// Forwards datagrams to `next`, and what comes back to whoever sent last. Prints its own address.
pub(crate) fn forward(next: SocketAddr) {
    let (here, there) = (Arc::new(socket()), Arc::new(socket()));
    there.connect(next).unwrap();
    println!("{}", here.local_addr().unwrap());
    let last = Arc::new(std::sync::Mutex::new(next));
    let (back, out, whom) = (Arc::clone(&here), Arc::clone(&there), Arc::clone(&last));
    std::thread::spawn(move || {
        let mut buf = [0; 2048];
        loop {
            if let Ok(len) = out.recv(&mut buf) {
                let to = *whom.lock().unwrap();
                let _ = back.send_to(&buf[..len], to);
            }
        }
    });
    let mut buf = [0; 2048];
    loop {
        if let Ok((len, from)) = here.recv_from(&mut buf) {
            *last.lock().unwrap() = from;
            let _ = there.send(&buf[..len]);
        }
    }
}
