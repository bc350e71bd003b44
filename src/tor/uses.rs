//! What is open through Tor, counted, so that it rests while there is nothing.

use std::sync::Arc;

use tokio::sync::watch;

/// How many uses there are.
#[derive(Clone, Default)]
pub(super) struct Uses(Arc<watch::Sender<usize>>);

/// One of them: a stream that is open or being opened, or an onion service.
pub(super) struct Use(Uses);

impl Uses {
    /// One more, until it is dropped.
    pub(super) fn begin(&self) -> Use {
        self.0.send_modify(|count| *count += 1);
        Use(self.clone())
    }

    /// Their number, now and from now on.
    pub(super) fn count(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }

    /// Does this where there are none: none begins meanwhile. Says whether it did.
    pub(super) fn if_none(&self, act: impl FnOnce()) -> bool {
        let mut done = false;
        self.0.send_if_modified(|count| {
            if *count == 0 {
                act();
                done = true;
            }
            false
        });
        done
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0
            .0
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_counts_until_it_is_dropped() {
        let uses = Uses::default();
        let (one, two) = (uses.begin(), uses.begin());
        drop(one);
        assert_eq!(*uses.count().borrow(), 1);
        assert!(!uses.if_none(|| panic!("there is one")));
        drop(two);
        assert!(uses.if_none(|| {}));
    }
}
