//! The log on standard error. Only our own modules write to it: what a library logs may hold an address.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Nothing.
    Off,
    /// What went wrong for good.
    Error,
    /// What the user should act on.
    Warn,
    /// What began and ended.
    Info,
    /// Each circuit and peer, by number.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Begins to log. `RUST_LOG` is not looked at: it could turn on the logs of libraries.
pub fn init(level: Level) {
    let ours = Targets::new()
        .with_target("hushswarm", level.filter())
        .with_target("hushswarm_circuits", level.filter());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Fails only where a log has begun already, as in tests.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(ours)
        .try_init();
}
