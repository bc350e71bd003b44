//! The source, the program that downloads from it, and the program that only forwards.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use crate::cpu::{Cpu, median};

/// Length of the pattern, and of what is written and read at once.
const CHUNK: usize = 256 * 1024;

/// What a download goes through.
pub(crate) trait Way: Sync {
    /// For people.
    fn name(&self) -> &str;
    /// Of the processes that are measured, so far.
    fn cpu(&self) -> Cpu;
    /// A stream that leads to the source.
    fn connect(&self, source: SocketAddr) -> TcpStream;
}

/// Sends as many bytes of its pattern as it is asked for.
pub(crate) struct Source {
    pub(crate) addr: SocketAddr,
    pattern: Arc<Vec<u8>>,
}

/// What one run measured.
pub(crate) struct Download {
    pub(crate) mb_per_s: f64,
    pub(crate) cpu_per_gb: f64,
    pub(crate) kernel_per_gb: f64,
    /// The median of its streams.
    pub(crate) first_byte_ms: f64,
}

impl Source {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut pattern = vec![0; CHUNK];
        blake3::Hasher::new().finalize_xof().fill(&mut pattern);
        let pattern = Arc::new(pattern);
        let data = Arc::clone(&pattern);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, data) = (stream.unwrap(), Arc::clone(&data));
                std::thread::spawn(move || {
                    let mut asked = [0; 8];
                    // One who has gone wants nothing.
                    let mut left = stream
                        .read_exact(&mut asked)
                        .map_or(0, |()| u64::from_be_bytes(asked));
                    while left > 0 {
                        let n = left.min(CHUNK as u64);
                        if stream.write_all(&data[..n as usize]).is_err() {
                            return;
                        }
                        left -= n;
                    }
                });
            }
        });
        Self { addr, pattern }
    }

    /// Reads `total` bytes over so many streams at once, and accounts for the processor time of those on the way.
    pub(crate) fn download(&self, through: &impl Way, total: u64, streams: u64) -> Download {
        let (before, begun) = (through.cpu(), Instant::now());
        let firsts: Vec<f64> = std::thread::scope(|scope| {
            let tasks: Vec<_> = (0..streams)
                .map(|_| scope.spawn(|| self.read(through, total / streams)))
                .collect();
            let firsts = tasks.into_iter().map(|task| task.join().unwrap());
            firsts.collect()
        });
        let (seconds, gb) = (begun.elapsed().as_secs_f64(), total as f64 / 1e9);
        let cpu = through.cpu().since(before);
        Download {
            mb_per_s: gb * 1e3 / seconds,
            cpu_per_gb: cpu.all() / gb,
            kernel_per_gb: cpu.kernel / gb,
            first_byte_ms: median(firsts),
        }
    }

    /// Median time to the first byte of streams opened one after the other.
    pub(crate) fn first_byte_ms(&self, through: &impl Way, openings: usize) -> f64 {
        median((0..openings).map(|_| self.read(through, 1)).collect())
    }

    /// Reads from one new stream to its end and compares every byte; gives milliseconds to the first.
    fn read(&self, through: &impl Way, len: u64) -> f64 {
        let begun = Instant::now();
        let mut stream = through.connect(self.addr);
        stream.write_all(&len.to_be_bytes()).unwrap();
        let (mut buf, mut got, mut first) = (vec![0; CHUNK], 0, None);
        loop {
            let n = stream.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            first.get_or_insert_with(|| begun.elapsed());
            let at = (got % CHUNK as u64) as usize;
            let head = n.min(CHUNK - at);
            let same = buf[..head] == self.pattern[at..at + head]
                && buf[head..n] == self.pattern[..n - head];
            assert!(same, "{}: other bytes came near {got}", through.name());
            got += n as u64;
        }
        assert_eq!(got, len, "{}: another length came", through.name());
        first.unwrap().as_secs_f64() * 1e3
    }
}

/// Forwards every connection to `next`, as plainly as user space can. Prints its own address.
pub(crate) fn forward(next: SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let onward = TcpStream::connect(next).unwrap();
        for (from, to) in [(&stream, &onward), (&onward, &stream)] {
            from.set_nodelay(true).unwrap();
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || pump(from, to));
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buf = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut buf) {
        if n == 0 || to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
