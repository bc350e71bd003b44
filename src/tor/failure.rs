//! What can go wrong with Tor, told for people. Errors of arti name relays, onion services and addresses, so none of
//! their texts is passed on.

use arti_client::{ErrorKind, HasKind};

use super::TorStatus;

/// Why Tor could not do it. Nothing was sent any other way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorError {
    /// Tor can't be used now: tell the user what to do.
    #[error("no Tor: {0}")]
    NoTor(&'static str),
    /// Tor can't be used now, and it may work later without anybody doing anything: wait, and tell the user why.
    #[error("no Tor: {0}")]
    NotNow(&'static str),
    /// It did not get ready in time, and goes on trying: wait and ask again.
    #[error("Tor is not ready, {percent} %: {what}")]
    NotReady {
        /// 0 to 100.
        percent: u8,
        /// What it does or waits for; it names no address.
        what: String,
    },
    /// There is no such onion service, or no such name.
    #[error("there is no such onion service or name, or it is not online")]
    NotFound,
    /// The onion service lets in only those whose key it knows: give yours to its operator.
    #[error("this onion service lets in only those whose key it was given")]
    KeyNeeded,
    /// Nobody listens at this port.
    #[error("connection refused")]
    Refused,
    /// Tor's exits or our own rules don't allow it.
    #[error("refused by an exit's rules")]
    NotAllowed,
    /// It could not be reached: try again later.
    #[error("unreachable through Tor")]
    Unreachable,
    /// No answer in time: try again later.
    #[error("timed out")]
    TimedOut,
    /// A relay went away: try again, others will be used.
    #[error("the circuit was lost")]
    CircuitLost,
}

impl TorError {
    /// Whether it may work later without anybody doing anything.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoTor(_) | Self::KeyNeeded | Self::NotAllowed => false,
            Self::NotNow(_)
            | Self::NotReady { .. }
            | Self::NotFound
            | Self::Refused
            | Self::Unreachable
            | Self::TimedOut
            | Self::CircuitLost => true,
        }
    }

    /// What to say after waiting in vain.
    pub(super) fn slow(status: &TorStatus) -> Self {
        match status {
            TorStatus::Starting { percent, what } => Self::NotReady {
                percent: *percent,
                what: what.clone(),
            },
            TorStatus::Idle | TorStatus::Ready | TorStatus::Resting | TorStatus::Failed(_) => {
                Self::NotReady {
                    percent: 0,
                    what: "nothing answers".to_owned(),
                }
            }
        }
    }

    pub(super) fn from_arti(error: &impl HasKind) -> Self {
        use ErrorKind as K;
        #[allow(clippy::wildcard_enum_match_arm, reason = "the type may grow")]
        match error.kind() {
            K::TorAccessFailed | K::LocalNetworkError => Self::NotNow(
                "its relays can't be reached: check the connection, or set bridges in ~/.config/hushswarm/tor.toml",
            ),
            K::DirectoryExpired => Self::NotNow(
                "its directory is out of date: is this computer's clock right? then try again in a minute",
            ),
            K::TorDirectoryError | K::TorDirectoryUnusable => {
                Self::NotNow("its directory could not be fetched or used: try again in a minute")
            }
            K::ClockSkew => Self::NoTor("this computer's clock is wrong: set it"),
            // We started it, so that this passes: what it kept from the last time is there, and not yet in use.
            K::BootstrapRequired => Self::NotNow("it has no directory yet: try again in a moment"),
            K::FsPermissions => Self::NoTor(
                "its folder, or one above it, can be written to by others: chmod 700, or another --state",
            ),
            K::LocalResourceAlreadyInUse => Self::NoTor(
                "another hushswarm uses its folder: stop that one, or give another --state",
            ),
            K::PersistentStateAccessFailed | K::CacheAccessFailed | K::KeystoreAccessFailed => {
                Self::NoTor("its folder can't be read or written: is the disk full?")
            }
            K::PersistentStateCorrupted | K::CacheCorrupted | K::KeystoreCorrupted => Self::NoTor(
                "its folder is damaged: move the folder \"tor\" of the state folder away",
            ),
            K::SoftwareDeprecated => {
                Self::NoTor("this version is too old for the Tor network: update")
            }
            K::InvalidConfig
            | K::InvalidConfigTransition
            | K::FeatureDisabled
            | K::NotImplemented => {
                Self::NoTor("~/.config/hushswarm/tor.toml names something that Tor does not know")
            }
            K::LocalResourceExhausted => {
                Self::NoTor("too little memory, or too few files may be open")
            }
            K::ExternalToolFailed => {
                Self::NoTor("the pluggable transport does not work: see tor.toml")
            }
            K::InvalidStreamTarget | K::OnionServiceAddressInvalid | K::OnionServiceNotFound => {
                Self::NotFound
            }
            K::RemoteHostNotFound | K::RemoteHostResolutionFailed => Self::NotFound,
            K::ForbiddenStreamTarget | K::ExitPolicyRejected => Self::NotAllowed,
            K::OnionServiceMissingClientAuth | K::OnionServiceWrongClientAuth => Self::KeyNeeded,
            K::OnionServiceNotRunning | K::OnionServiceConnectionFailed => Self::Unreachable,
            K::RemoteConnectionRefused => Self::Refused,
            K::ExitTimeout | K::RemoteNetworkTimeout | K::TorNetworkTimeout => Self::TimedOut,
            K::CircuitCollapse
            | K::CircuitRefused
            | K::RemoteStreamReset
            | K::RemoteStreamClosed => Self::CircuitLost,
            _ => Self::Unreachable,
        }
    }
}
