//! One runtime for each processor. All of a link (its two tasks, the exit streams of circuits that end on it, the links that
//! its circuits extend to) runs on one of them: what wakes each other shares a processor and its caches, and nobody
//! is woken across.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tracing::warn;

/// Threads at the most, whatever the machine has: a relay that fills so many is held by its network long before.
const MAX_THREADS: usize = 64;

/// The threads that links run on; they end, with what runs on them, when this is dropped.
pub(super) struct Threads {
    handles: Vec<Handle>,
    next: AtomicUsize,
    _running: watch::Sender<()>,
}

impl Threads {
    /// A thread for each processor. Where none can be started, links run where the caller does.
    pub(super) fn start() -> Self {
        let count = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (running, _) = watch::channel(());
        let started = (0..count.min(MAX_THREADS)).map(|n| start_one(n, running.subscribe()));
        let handles = started.filter_map(|handle| {
            handle
                .inspect_err(|error| warn!(kind = %error.kind(), "one thread less"))
                .ok()
        });
        Self {
            handles: handles.collect(),
            next: AtomicUsize::new(0),
            _running: running,
        }
    }

    /// Runs what makes a link, and with it all that it starts, on the thread whose turn it is.
    pub(super) fn spawn(&self, link: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match turn
            .checked_rem(self.handles.len())
            .and_then(|n| self.handles.get(n))
        {
            Some(thread) => thread.spawn(link),
            None => tokio::spawn(link),
        };
    }
}

fn start_one(n: usize, mut running: watch::Receiver<()>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name(format!("links {n}"))
        .spawn(move || {
            // Ends when the other side is dropped.
            let _ = runtime.block_on(running.changed());
            // A name that is being looked up must not hold up the end.
            runtime.shutdown_background();
        })?;
    Ok(handle)
}
