//! What passes between the tasks.
//!
//! Each has a socket of its own on the one port, and the kernel deals viewers out to the sockets by their
//! addresses (`SO_REUSEPORT`, socket(7)), of which an offer tells nothing. So the first check of a viewer may
//! come up at another task than the one that has answered its offer. What is nobody's there is shown to the
//! others; the one whose it is hands the viewer over to where it is heard, and from then on nothing of it
//! passes between them. Who moves on afterwards, as by Wi-Fi that roams, or is a sibling, stays where it is,
//! and what is heard of it elsewhere is passed on.

use std::time::Instant;

use tokio::sync::mpsc;

use super::registry::Entry;
use super::task::{Dirty, Task};
use super::transport::Datagram;

/// Batches that may wait. What is beyond that is lost like any datagram; a viewer is kept.
const QUEUE: usize = 256;

/// The task that owns the socket of this index.
pub(super) type Index = usize;

pub(super) enum Passed {
    /// Nobody's there.
    Heard(Index, Vec<Datagram>),
    /// A viewer, and what was heard of it.
    Viewer(Box<Entry>, Datagram),
}

/// The other tasks, as one of them sees them.
pub(super) struct Others {
    own: Index,
    passed: mpsc::Receiver<Passed>,
    mailboxes: Vec<mpsc::Sender<Passed>>,
}

impl Others {
    /// So many tasks, each as it sees the others.
    pub(super) fn all(count: usize) -> impl Iterator<Item = Self> {
        let (mailboxes, passed): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(QUEUE)).unzip();
        passed
            .into_iter()
            .enumerate()
            .map(move |(own, passed)| Self {
                own,
                passed,
                mailboxes: mailboxes.clone(),
            })
    }

    /// What comes from them.
    pub(super) async fn passed(&mut self) -> Option<Passed> {
        self.passed.recv().await
    }

    /// Shows them what is nobody's here.
    pub(super) fn show(&self, datagrams: &[Datagram]) {
        if datagrams.is_empty() {
            return;
        }
        for (index, mailbox) in self.mailboxes.iter().enumerate() {
            if index != self.own {
                let copies = datagrams.iter().map(Datagram::copy).collect();
                // Full, or its task has ended.
                let _ = mailbox.try_send(Passed::Heard(self.own, copies));
            }
        }
    }

    /// Hands a viewer over; gives it back when that task cannot take it.
    fn hand_over(
        &self,
        to: Index,
        viewer: Box<Entry>,
        heard: Datagram,
    ) -> Result<(), (Box<Entry>, Datagram)> {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.mailboxes[to].try_send(Passed::Viewer(viewer, heard)) {
            Err(Full(Passed::Viewer(viewer, heard)) | Closed(Passed::Viewer(viewer, heard))) => {
                Err((viewer, heard))
            }
            _ => Ok(()),
        }
    }
}

impl Task {
    /// Takes what comes from the others.
    pub(super) fn take_passed(&mut self, passed: Passed, dirty: &mut Dirty) {
        match passed {
            Passed::Viewer(viewer, heard) => self.take_in(viewer, heard, dirty),
            Passed::Heard(by, datagrams) => {
                for heard in datagrams {
                    self.take_heard(by, heard, dirty);
                }
            }
        }
    }

    /// Takes what is of somebody here. A viewer of whom this is the first that is heard is handed over
    /// to the task that has heard it.
    fn take_heard(&mut self, by: Index, heard: Datagram, dirty: &mut Dirty) {
        let unheard = self.registry.unheard(&heard);
        let Some(viewer) = unheard.and_then(|slot| self.take_out(slot)) else {
            return dirty.extend(self.registry.deliver(Instant::now(), heard).ok());
        };
        if let Err((viewer, heard)) = self.others.hand_over(by, viewer, heard) {
            self.take_in(viewer, heard, dirty);
        }
    }

    fn take_in(&mut self, viewer: Box<Entry>, heard: Datagram, dirty: &mut Dirty) {
        self.admit(viewer, dirty);
        // It names the viewer, so that it is somebody's.
        let _ = self.registry.deliver(Instant::now(), heard);
    }
}
