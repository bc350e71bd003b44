//! What the application is still to hear of, at most one notice per stream and kind.

use std::collections::{BTreeMap, VecDeque};

use super::MuxEvent;
use crate::body::{OpenRequest, OpenStatus};

/// The notices of one stream.
#[derive(Debug, Default)]
struct Notice {
    open: Option<OpenRequest>,
    opened: Option<OpenStatus>,
    readable: bool,
    writable: bool,
}

/// The notices of all streams, in the order in which the first of each stream came up.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: BTreeMap<u32, Notice>,
    order: VecDeque<u32>,
}

impl Notices {
    fn of(&mut self, stream: u32) -> &mut Notice {
        self.waiting.entry(stream).or_insert_with(|| {
            self.order.push_back(stream);
            Notice::default()
        })
    }

    pub(super) fn open(&mut self, stream: u32, request: OpenRequest) {
        self.of(stream).open = Some(request);
    }

    pub(super) fn opened(&mut self, stream: u32, status: OpenStatus) {
        self.of(stream).opened = Some(status);
    }

    pub(super) fn readable(&mut self, stream: u32) {
        self.of(stream).readable = true;
    }

    pub(super) fn writable(&mut self, stream: u32) {
        self.of(stream).writable = true;
    }

    /// Whether the application has not heard of this stream at all.
    pub(super) fn is_unannounced(&self, stream: u32) -> bool {
        self.waiting
            .get(&stream)
            .is_some_and(|notice| notice.open.is_some())
    }

    pub(super) fn forget(&mut self, stream: u32) {
        if self.waiting.remove(&stream).is_some() {
            self.order.retain(|&other| other != stream);
        }
    }

    pub(super) fn poll(&mut self) -> Option<MuxEvent> {
        loop {
            let stream = *self.order.front()?;
            if let Some(notice) = self.waiting.get_mut(&stream) {
                if let Some(OpenRequest { kind, target }) = notice.open.take() {
                    return Some(MuxEvent::Open {
                        stream,
                        kind,
                        target,
                    });
                }
                if let Some(status) = notice.opened.take() {
                    return Some(MuxEvent::Opened { stream, status });
                }
                if std::mem::take(&mut notice.readable) {
                    return Some(MuxEvent::Readable { stream });
                }
                if std::mem::take(&mut notice.writable) {
                    return Some(MuxEvent::Writable { stream });
                }
            }
            self.waiting.remove(&stream);
            self.order.pop_front();
        }
    }
}
