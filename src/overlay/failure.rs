//! How the overlay stands, and why a circuit could not be built.

use hushswarm_circuits::path::PathError;

/// How the overlay stands, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No circuit has been built so far.
    Connecting,
    /// The last circuit that was wanted could be built.
    Ready,
    /// It could not: nothing leaves until one can.
    Unreachable(BuildError),
}

/// No circuit could be built. Nothing is sent any other way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The list has no path for this.
    #[error("{0}; {hint}", hint = .0.hint())]
    NoPath(#[from] PathError),
    /// No guard could be reached.
    #[error("no guard relay answers")]
    GuardUnreachable,
    /// The way to all relays is missing: what it needs, for people.
    #[error("{0}")]
    NoWay(String),
    /// Relays further on could not be reached.
    #[error("the relays after the guard do not answer")]
    Failed,
    /// The relay list's time is over, or has not come: what it says of relays is not to be relied on.
    #[error(
        "the relay list has expired: get the network's newest one, and check this computer's clock"
    )]
    ListExpired,
    /// There is no relay list, since the user chose Tor alone ([`super::client::Client::without_relays`]).
    #[error(
        "there is no relay list, and without one only Tor is used: give one with --network FILE"
    )]
    NoRelays,
    /// The fixed middles can be neither read nor stored.
    #[error("the fixed middle relays can't be kept in the state folder: is the disk full?")]
    NoMiddles,
    /// [`super::client::Client::close`] was called.
    #[error("circuits are no longer built")]
    Closed,
}
