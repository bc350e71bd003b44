//! Isolation: what may share a circuit (design: streams share one only when their keys are equal).

/// Whom a stream belongs to. Two streams share a circuit only when their keys are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isolation([u8; 32]);

impl Isolation {
    /// Derives a key from a purpose (`"swarm"`, `"tracker"`, `"socks"`) and what names the owner within it.
    /// `lane` tells apart several circuits of one owner.
    pub fn new(purpose: &str, owner: &[u8], lane: u16) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("hushswarm v1 isolation");
        hasher.update(&(purpose.len() as u64).to_be_bytes());
        hasher.update(purpose.as_bytes());
        hasher.update(owner);
        hasher.update(&lane.to_be_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Isolation(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_owners_and_lanes_are_kept_apart() {
        let base = Isolation::new("swarm", b"a", 0);
        assert_eq!(base, Isolation::new("swarm", b"a", 0));
        for other in [
            Isolation::new("tracker", b"a", 0),
            Isolation::new("swarm", b"b", 0),
            Isolation::new("swarm", b"a", 1),
            Isolation::new("swar", b"ma", 0),
        ] {
            assert_ne!(base, other);
        }
    }
}
