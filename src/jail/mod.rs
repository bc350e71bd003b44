//! A jail for one program: namespaces with nothing in them but doors that are served from outside (Linux).
//!
//! `stages` starts this program again, twice over, until `warden` is process 1 of new namespaces. It sets up the network
//! (`network`, `netlink`), covers what leads outside (`mounts`), makes the doors and hands their descriptors out to
//! `outer`; the last stage gives up every right (`seccomp`) and becomes the program. What serves the doors is
//! [`dns`], [`names`] and [`renamed`] (names instead of addresses), [`caught`] and [`flows`], [`publish`].

#[cfg(target_os = "linux")]
pub mod caught;
pub mod dns;
#[cfg(target_os = "linux")]
mod doors;
#[cfg(target_os = "linux")]
pub mod environment;
pub mod flows;
#[cfg(target_os = "linux")]
mod hints;
#[cfg(target_os = "linux")]
mod message;
#[cfg(target_os = "linux")]
mod mounts;
pub mod names;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod network;
#[cfg(target_os = "linux")]
mod outer;
pub mod publish;
pub mod renamed;
#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(target_os = "linux")]
pub mod signals;
#[cfg(target_os = "linux")]
pub mod stages;
#[cfg(test)]
mod testing;
#[cfg(target_os = "linux")]
mod warden;

#[cfg(target_os = "linux")]
pub use doors::{Caught, Inside, JailError};
#[cfg(target_os = "linux")]
pub use hints::obstacle;
#[cfg(target_os = "linux")]
pub use message::{Ended, Step};
#[cfg(target_os = "linux")]
pub use outer::{Config, Jail, Running, Warden, standard};
