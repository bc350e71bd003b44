//! The section `[introductions]` of a relay's configuration: how many introduction and rendezvous points it is, and for how
//! much (PROTOCOL.md §8). It counts where `introduce = true`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// What of introductions and meetings a relay takes on. What is beyond is refused, clearly, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeetingLimits {
    /// Introduction points at once, for everybody. Each is a stream that mostly waits, and 32 KiB of introductions at the most.
    pub introduction_points: NonZeroU32,
    /// The same, for one circuit. An honest seed has a circuit for each.
    pub introduction_points_per_circuit: NonZeroU32,
    /// The same, on one link that is not a listed relay's.
    pub introduction_points_per_client: NonZeroU32,
    /// Rendezvous points at once, for everybody: those who wait and those who have met. Each has two streams with their windows.
    pub rendezvous_points: NonZeroU32,
    /// The same, for one circuit. An honest visitor has a circuit for each meeting.
    pub rendezvous_points_per_circuit: NonZeroU32,
    /// The same, on one link that is not a listed relay's.
    pub rendezvous_points_per_client: NonZeroU32,
    /// Requests for introduction points, to wait and to join, per second, for everybody. Each costs a signature's check at the
    /// most, about 0.1 ms.
    pub requests_per_second: NonZeroU32,
    /// The same, for one circuit.
    pub requests_per_second_per_circuit: NonZeroU32,
    /// The same, on one link that is not a listed relay's.
    pub requests_per_second_per_client: NonZeroU32,
    /// Introductions per second, for everybody; as many for quiet keys; and as many that were worked for, where a seed under load asks for it: each costs 0.2 ms.
    pub introductions_per_second: NonZeroU32,
    /// The same, from one circuit. An honest visitor has a circuit for each seed.
    pub introductions_per_second_per_circuit: NonZeroU32,
    /// The same, from one link that is not a listed relay's.
    pub introductions_per_second_per_client: NonZeroU32,
    /// The same, for one key: each costs the seed a handshake and, where it is right, a circuit.
    pub introductions_per_second_per_key: NonZeroU32,
}

impl Default for MeetingLimits {
    fn default() -> Self {
        let limit = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            introduction_points: limit(4096),
            introduction_points_per_circuit: limit(4),
            introduction_points_per_client: limit(1024),
            rendezvous_points: limit(4096),
            rendezvous_points_per_circuit: limit(1),
            rendezvous_points_per_client: limit(256),
            requests_per_second: limit(500),
            requests_per_second_per_circuit: limit(10),
            requests_per_second_per_client: limit(50),
            introductions_per_second: limit(200),
            introductions_per_second_per_circuit: limit(5),
            introductions_per_second_per_client: limit(20),
            introductions_per_second_per_key: limit(10),
        }
    }
}
