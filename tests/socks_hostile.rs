//! Programs that mean harm, or are broken: they cost themselves their connection, and nobody else anything.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stderr
)]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/script.rs"]
mod script;
#[path = "support/relays.rs"]
mod world;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hushswarm::socks::limits::Limits;
use hushswarm::socks::{Options, Server};
use proxy::Proxy;
use script::Script;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use world::{Recipe, pattern, serve, until};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(90);
/// Half-open connections of a flood.
const FLOOD: usize = 3000;

fn small() -> Limits {
    Limits {
        newcomers: 64,
        ..Limits::default()
    }
}

fn server(outside: &Arc<Script>, limits: Limits) -> (SocketAddr, Arc<Server>) {
    let options = Options {
        password: None,
        limits,
    };
    script::serve(outside, options)
}

/// Lets this process have enough files open for a flood; `false` where the system does not.
fn many_files() -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let enough = limit
        .maximum
        .is_none_or(|most| most > 2 * FLOOD as u64 + 500);
    if !enough || setrlimit(Resource::Nofile, all).is_err() {
        eprintln!("SKIPPED: too few files may be open here");
        return false;
    }
    true
}

/// A SOCKS5 connection to a target by name.
async fn connect(at: SocketAddr, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut request = vec![5, 1, 0, 5, 1, 0, 3, 9];
    request.extend_from_slice(b"localhost");
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..4], [5, 0, 5, 0]);
    stream
}

/// Asks for an association; gives its connection, and where datagrams go, or the code of the refusal.
async fn associate(at: SocketAddr, port: u16) -> Result<(TcpStream, SocketAddr), u8> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let [high, low] = port.to_be_bytes();
    let request = [5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, high, low];
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    let [5, 0, 5, code, 0, 1, a, b, c, d, high, low] = answer else {
        panic!("{answer:?}");
    };
    if code != 0 {
        return Err(code);
    }
    let port = u16::from_be_bytes([high, low]);
    Ok((stream, SocketAddr::from(([a, b, c, d], port))))
}

/// A datagram as a program sends it.
fn datagram(payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1, 203, 0, 113, 7, 0, 80][..], payload].concat()
}

/// The next datagram that comes, without its header.
async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = [0; 4096];
    let (len, _) = timeout(LONG, socket.recv_from(&mut buf))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(buf[..10], [0, 0, 0, 1, 203, 0, 113, 7, 0, 80]);
    buf[10..len].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_half_open_connections_cost_a_download_nothing() {
    if !many_files() {
        return;
    }
    const SIZE: usize = 32 << 20;
    let bytes = Arc::new(pattern(1, SIZE));
    let source = Arc::clone(&bytes);
    let outside = Arc::new(Script::new(move |mut stream| {
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let _ = stream.write_all(&source).await;
        });
    }));
    let (at, server) = server(&outside, small());
    let mut download = connect(at, 80).await;
    let mut received = vec![0; SIZE / 2];
    download.read_exact(&mut received).await.unwrap();
    let mut flood = Vec::new();
    for n in 0..FLOOD {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // Some say nothing, some a part of something. The proxy may have closed it already.
        let _ = stream
            .write_all(&[&b"\x05"[..], b"G", b"\x04\x01"][n % 3][..n % 2])
            .await;
        flood.push(stream);
    }
    assert!(server.counts().0 <= 64, "{:?}", server.counts());
    // Who comes now is served, and the download goes on.
    let mut late = connect(at, 80).await;
    let mut first = [0; 1000];
    late.read_exact(&mut first).await.unwrap();
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).await.unwrap();
    received.extend_from_slice(&rest);
    assert!(received == *bytes);
    drop((flood, late));
    until("everybody has gone", || {
        server.counts() == (0, 1, 0) || server.counts() == (0, 0, 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_its_wish_byte_by_byte_has_to_be_done_in_time() {
    let outside = Arc::new(Script::echo());
    let limits = Limits {
        handshake: Duration::from_secs(1),
        ..small()
    };
    let (at, server) = server(&outside, limits);
    for begin in [
        &b"\x05\xff"[..],
        b"\x04\x01\x00\x50\x01\x01\x01\x01",
        b"GET http://a/ HTTP/1.1\r\nX: ",
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let (mut from, mut to) = stream.split();
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if to.write_all(b"a").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut said = Vec::new();
        tokio::select! {
            () = drip => unreachable!(),
            ended = timeout(LONG, from.read_to_end(&mut said)) => drop(ended.unwrap()),
        }
        assert!(said.is_empty(), "{said:?}");
    }
    assert_eq!(server.counts().1, 0);
    assert!(outside.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_requests_are_cut_off() {
    let outside = Arc::new(Script::echo());
    let (at, _server) = server(&outside, small());
    for begin in [
        &b"\x04\x01\x00\x50\x01\x01\x01\x01"[..],
        b"\x04\x01\x00\x50\x00\x00\x00\x01\0",
        b"GET http://a/ HTTP/1.1\r\nX: ",
        b"GET http://a/",
        b"\x16\x03\x01",
        b"\xff",
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let (mut from, mut to) = stream.split();
        let pour = async {
            while to.write_all(&[b'a'; 4096]).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let mut said = Vec::new();
        // An answer, or none; in any case an end, long before the time for a handshake.
        tokio::select! {
            () = pour => unreachable!(),
            ended = timeout(LONG, from.read_to_end(&mut said)) => drop(ended.unwrap()),
        }
    }
    assert!(outside.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_that_close_at_once_leaves_nothing_behind() {
    let outside = Arc::new(Script::echo());
    let (at, server) = server(&outside, small());
    for n in 0..FLOOD {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let _ = stream
            .write_all(&b"\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50"[..n % 14])
            .await;
    }
    let mut good = connect(at, 80).await;
    good.write_all(b"x").await.unwrap();
    assert_eq!(good.read_u8().await.unwrap(), b'x');
    drop(good);
    until("everybody has gone", || server.counts() == (0, 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_are_bounded_and_free_when_their_owners_go() {
    let outside = Arc::new(Script::echo());
    let limits = Limits {
        connections: 3,
        ..small()
    };
    let (at, server) = server(&outside, limits);
    let held = [
        connect(at, 80).await,
        connect(at, 80).await,
        connect(at, 80).await,
    ];
    let mut fourth = TcpStream::connect(at).await.unwrap();
    let request = b"\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50";
    fourth.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    fourth.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[..4], [5, 0, 5, 1]);
    drop(held);
    until("seats are free", || server.counts().1 == 0).await;
    connect(at, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_goes_while_its_stream_is_being_opened_holds_nothing() {
    let mut outside = Script::echo();
    outside.connect = Box::new(|target| {
        // Blocks the way out as a circuit that is being built would.
        std::thread::sleep(Duration::from_millis(u64::from(target.port)));
        Ok(())
    });
    let outside = Arc::new(outside);
    let (at, server) = server(&outside, small());
    for _ in 0..20 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = b"\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x64";
        stream.write_all(request).await.unwrap();
    }
    until("everybody has gone", || server.counts() == (0, 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_strangers_are_not_carried() {
    let outside = Arc::new(Script::echo());
    let (at, _server) = server(&outside, small());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let beside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for named in [0, client.local_addr().unwrap().port()] {
        let (_control, to) = associate(at, named).await.unwrap();
        // From another address, before the program has sent anything.
        elsewhere.send_to(&datagram(b"stranger"), to).await.unwrap();
        if named != 0 {
            beside.send_to(&datagram(b"stranger"), to).await.unwrap();
        }
        client.send_to(&datagram(b"one"), to).await.unwrap();
        assert_eq!(receive(&client).await, b"one");
        // From another port, and what is no such datagram.
        beside.send_to(&datagram(b"stranger"), to).await.unwrap();
        let mut fragment = datagram(b"fragment");
        fragment[2] = 1;
        for bad in [
            &fragment[..],
            b"",
            b"\0",
            &datagram(b"")[..9],
            &datagram(&[b'x'; 9000]),
        ] {
            client.send_to(bad, to).await.unwrap();
        }
        client.send_to(&datagram(b"two"), to).await.unwrap();
        // What was carried in between would have come back before.
        assert_eq!(receive(&client).await, b"two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn associations_are_bounded_and_die_with_their_connection() {
    let outside = Arc::new(Script::echo());
    let limits = Limits {
        associations: 4,
        ..small()
    };
    let (at, server) = server(&outside, limits);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(associate(at, 0).await.unwrap());
    }
    for _ in 0..20 {
        assert_eq!(associate(at, 0).await.unwrap_err(), 1);
    }
    let to = held[0].1;
    drop(held);
    until("associations are gone", || server.counts() == (0, 0, 0)).await;
    // Its port is closed: a datagram to it is refused by the system.
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(to).await.unwrap();
    client.send(&datagram(b"late")).await.unwrap();
    let refused = timeout(LONG, client.recv(&mut [0; 100])).await.unwrap();
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    associate(at, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_breaks_is_opened_again_and_no_datagram_is_lost_while_it_opens() {
    let outside = Arc::new(Script::echo());
    // The first attempts fail.
    *outside.flow_failures.lock().unwrap() = 2;
    let (at, _server) = server(&outside, small());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (_control, to) = associate(at, 0).await.unwrap();
    client.send_to(&datagram(b"first"), to).await.unwrap();
    assert_eq!(receive(&client).await, b"first");
    for round in 1..4 {
        assert_eq!(outside.flows.lock().unwrap().len(), round);
        // The circuit dies.
        let flow = outside.flows.lock().unwrap()[round - 1].1.clone();
        flow.send(None).unwrap();
        // Until that was noticed, datagrams may be lost; a DHT sends more.
        let mut buf = [0; 100];
        let again = async {
            loop {
                client.send_to(&datagram(b"again"), to).await.unwrap();
                let wait = Duration::from_millis(200);
                if timeout(wait, client.recv_from(&mut buf)).await.is_ok() {
                    break;
                }
            }
        };
        timeout(LONG, again).await.unwrap();
        // What else came back is read before the next round.
        let rest = Duration::from_millis(300);
        while timeout(rest, client.recv_from(&mut buf)).await.is_ok() {}
    }
    // All flows of an association belong to one owner.
    let flows = outside.flows.lock().unwrap();
    assert!(flows.iter().all(|flow| flow.0 == flows[0].0));
}

/// Answers a request with a part of the page, and then ends as told.
async fn broken_web(abrupt: bool) -> u16 {
    let target = serve(move |mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
        let _ = stream.write_all(&[b'x'; 300_000]).await;
        if abrupt {
            // Once the first part has gone, so that only the reset tells.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let _ = stream.set_zero_linger();
        }
    })
    .await;
    target.port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_is_not_taken_for_a_whole_one() {
    let world = Recipe::new(3).start();
    let proxy = Proxy::start(&world, &[]);
    for (abrupt, whole) in [(false, true), (true, false)] {
        let port = broken_web(abrupt).await;
        for kind in ["socks5h", "socks4a", "http"] {
            let mut command = Command::new("curl");
            command
                .args(["-s", "-S", "--max-time", "90", "-o", "/dev/null", "-x"])
                .args([
                    format!("{kind}://{}", proxy.addr()),
                    format!("http://localhost:{port}/"),
                ]);
            let out = tokio::task::spawn_blocking(move || command.output().unwrap());
            let out = out.await.unwrap();
            let errors = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(out.status.success(), whole, "{kind}: {errors}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_files_stay_bounded_whatever_programs_do() {
    if !many_files() {
        return;
    }
    let world = Recipe::new(3).start();
    let mut proxy = Proxy::start(&world, &[]);
    proxy.wait_for("ready");
    let at = proxy.addr();
    // A server that sends for ever, to programs that do not read.
    let target =
        serve(|mut stream| async move { while stream.write_all(&[b'x'; 65_536]).await.is_ok() {} })
            .await;
    let mut readers = Vec::new();
    for _ in 0..200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = timeout(LONG, socket.connect(at)).await.unwrap().unwrap();
        let mut request = vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1];
        request.extend_from_slice(&target.port.to_be_bytes());
        stream.write_all(&request).await.unwrap();
        let mut answer = [0; 12];
        timeout(LONG, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer[..4], [5, 0, 5, 0]);
        readers.push(stream);
    }
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let _ = stream.write_all(b"GET http://a/ HTTP/1.1\r\nX: ").await;
        let _ = stream.try_write(&[b'a'; 15_000]);
        flood.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // 512 newcomers of 16 KiB; 200 streams with a window of 256 KiB and a buffer; what a relay link takes.
    let (memory, files) = (proxy.status("VmRSS:") / 1024, proxy.files());
    eprintln!("{memory} MiB, {files} files");
    assert!(memory < 256, "{memory} MiB");
    assert!(files < 200 + 512 + 100, "{files} files");
    drop(flood);
    // Who reads on gets on.
    let mut buf = vec![0; 1 << 20];
    timeout(LONG, readers[7].read_exact(&mut buf))
        .await
        .unwrap()
        .unwrap();
    drop(readers);
    until("files are closed", || proxy.files() < 60).await;
}
