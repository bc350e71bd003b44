//! How fast blocks may go, as the user says it.

use crate::torrent::engine::Limits;

/// Bytes in the unit that is used here.
const KIB: u64 = 1 << 10;

/// Limits on blocks, both ways.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct LimitArgs {
    /// Take at most so much, in KiB a second
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    limit_down: Option<u64>,
    /// Give at most so much, in KiB a second
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    limit_up: Option<u64>,
}

impl LimitArgs {
    /// What they say.
    pub(super) fn limits(self) -> Limits {
        let bytes = |kib: u64| kib.saturating_mul(KIB);
        Limits {
            down: self.limit_down.map(bytes),
            up: self.limit_up.map(bytes),
        }
    }
}
