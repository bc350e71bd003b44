//! The tests' ledger of (key, nonce) pairs: every sealing party of a run writes into one, and a pair that comes
//! twice fails the test at once.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// Names a key without keeping it.
pub(crate) type KeyId = [u8; 32];

/// What was sealed while [`record`] ran.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    /// Data seals per (key, nonce).
    pub(crate) seals: BTreeMap<(KeyId, u64), u32>,
    /// Keystream blocks per (key, block number). Two parties compute each: who masks and who unmasks.
    pub(crate) keystreams: BTreeMap<(KeyId, u64), u32>,
}

thread_local! {
    static LEDGER: RefCell<Option<Ledger>> = const { RefCell::new(None) };
}

pub(crate) fn key_id(algorithm: u8, key: &[u8; 32]) -> KeyId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[algorithm]).update(key);
    hasher.finalize().into()
}

/// Runs `run` and gives what was sealed on this thread in the meantime.
pub(crate) fn record(run: impl FnOnce()) -> Ledger {
    LEDGER.set(Some(Ledger::default()));
    run();
    LEDGER.take().unwrap_or_default()
}

pub(crate) fn sealed(key: KeyId, nonce: u64) {
    with(|ledger| {
        let times = ledger.seals.entry((key, nonce)).or_default();
        *times += 1;
        assert_eq!(*times, 1, "nonce {nonce} sealed twice under one key");
    });
}

pub(crate) fn keystream(key: KeyId, nonce: u64) {
    with(|ledger| {
        let times = ledger.keystreams.entry((key, nonce)).or_default();
        *times += 1;
        assert!(
            *times <= 2,
            "keystream block {nonce} computed more than once by a party"
        );
    });
}

fn with(act: impl FnOnce(&mut Ledger)) {
    LEDGER.with_borrow_mut(|ledger| ledger.as_mut().map(act));
}
