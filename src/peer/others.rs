//! What passes between the tasks: what is heard of a peer at another task's socket than its own.
//!
//! A viewer is with the task that first hears it ([`super::directory`]), and mostly nothing passes. It has
//! checks come from several addresses where it, or the box, has several interfaces; the one that it
//! nominates decides, until its channel is open. Who moves on afterwards, as by Wi-Fi that roams, or is
//! a sibling, which stays with the first task, has its datagrams passed on.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::PeerStatus;
use super::directory::{Index, Named};
use super::offers::LetGo;
use super::registry::{Entry, Unknown};
use super::stun;
use super::task::{Dirty, Task};
use super::transport::Datagram;

/// What may wait for a task: some ms of a segment from a sibling at full speed. What is beyond that is
/// lost, like any datagram.
const QUEUE: usize = 1024;

/// Of these, so many places are left to what must not be lost: viewers, and that one is let go.
const KEPT_FREE: usize = 256;

/// So many are taken before anything is driven: some four reads of the socket.
const PASSED_PER_ROUND: usize = 256;

/// Bytes of a datagram that is passed on at most: what fits into an Ethernet frame.
const MAX_PASSED: usize = 1500;

/// How much later than our answer to a viewer's first check our own check is sent: libdatachannel opens
/// 20 ms later when it gets both at once.
const ANSWER_FIRST: Duration = Duration::from_millis(1);

pub(super) enum Passed {
    /// A datagram of a peer, at the socket of this task.
    Heard(Index, Datagram),
    /// A viewer, and what was heard of it.
    Viewer(Box<Entry>, Datagram),
    /// The peer of this name is to be let go.
    LetGo(String, LetGo),
    /// Somebody wants to know who is there.
    List(mpsc::Sender<Vec<PeerStatus>>),
}

/// The tasks, as one of them sees them.
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
        let passed = passed.into_iter().enumerate();
        passed.map(move |(own, passed)| Self {
            own,
            passed,
            mailboxes: mailboxes.clone(),
        })
    }

    /// How many tasks there are.
    pub(super) fn count(&self) -> usize {
        self.mailboxes.len()
    }

    /// Which one it is.
    pub(super) fn own(&self) -> Index {
        self.own
    }

    /// What comes from them.
    pub(super) async fn passed(&mut self) -> Option<Passed> {
        self.passed.recv().await
    }

    /// What has come from them.
    pub(super) fn try_passed(&mut self) -> Option<Passed> {
        self.passed.try_recv().ok()
    }

    /// Passes something on to one of them.
    ///
    /// # Errors
    /// The thing, when that is more than it can take, or when it has ended.
    pub(super) fn pass(&self, to: Index, passed: Passed) -> Result<(), Passed> {
        use mpsc::error::TrySendError::{Closed, Full};
        let mailbox = &self.mailboxes[to];
        if matches!(passed, Passed::Heard(..)) && mailbox.capacity() <= KEPT_FREE {
            return Err(passed);
        }
        match mailbox.try_send(passed) {
            Ok(()) => Ok(()),
            Err(Full(passed) | Closed(passed)) => Err(passed),
        }
    }

    /// Has all others say who is there; what comes is over when `parts` is given back by all.
    pub(super) fn list(&self, parts: &mpsc::Sender<Vec<PeerStatus>>) {
        for to in (0..self.mailboxes.len()).filter(|to| *to != self.own) {
            // One that has ended has nobody.
            let _ = self.pass(to, Passed::List(parts.clone()));
        }
    }
}

impl Task {
    /// Takes what else has come from the others.
    pub(super) fn take_more_passed(&mut self, dirty: &mut Dirty) {
        for _ in 0..PASSED_PER_ROUND {
            let Some(passed) = self.others.try_passed() else {
                return;
            };
            self.take_passed(passed, dirty);
        }
    }

    /// Takes what comes from the others.
    pub(super) fn take_passed(&mut self, passed: Passed, dirty: &mut Dirty) {
        let now = Instant::now();
        match passed {
            Passed::Heard(by, heard) => self.take_heard(now, by, heard, dirty),
            Passed::Viewer(viewer, heard) => {
                // It may have been dropped on its way.
                if self.directory.is_at(&viewer.ufrag, self.others.own()) {
                    self.take_in(now, viewer, heard, dirty);
                }
            }
            Passed::LetGo(ufrag, why) => self.let_go(&ufrag, why, dirty),
            Passed::List(parts) => {
                // Whoever asked has as many places as there are tasks.
                let _ = parts.try_send(self.list(now));
            }
        }
    }

    /// Finds out whose a datagram is that is of nobody here.
    pub(super) fn hear_unknown(&mut self, now: Instant, unknown: Unknown, dirty: &mut Dirty) {
        let Unknown { ufrag, datagram } = unknown;
        let own = self.others.own();
        if datagram.bytes.len() > MAX_PASSED {
            return;
        }
        let Some(ufrag) = ufrag else {
            for at in self.registry.elsewhere(datagram.from) {
                self.pass_heard(at, datagram.clone());
            }
            return;
        };
        match self.directory.named(&ufrag, own) {
            Named::Taken(mut viewer) => {
                // The stack's patience begins when it is first told the time: now, and not with
                // the offer, which a browser's prompt may have held up.
                viewer.connection.timeout(now);
                self.take_in(now, viewer, datagram, dirty);
            }
            Named::At(index) if index != own => {
                self.registry.is_elsewhere(datagram.from, index);
                self.pass_heard(index, datagram);
            }
            Named::At(_) | Named::Nobody => {}
        }
    }

    /// More than that task can take is lost, like any datagram.
    fn pass_heard(&self, at: Index, datagram: Datagram) {
        let _ = self
            .others
            .pass(at, Passed::Heard(self.others.own(), datagram));
    }

    /// Takes what another task has heard of somebody here. A viewer who is not open yet goes there, if
    /// that is the address that it chooses.
    fn take_heard(&mut self, now: Instant, by: Index, heard: Datagram, dirty: &mut Dirty) {
        let chosen = self.registry.may_move(&heard);
        let Some(slot) = chosen.filter(|_| stun::nominates(&heard.bytes)) else {
            // By whom it was passed on, it has been to the others.
            let _ = self.registry.deliver(now, heard, dirty);
            return;
        };
        let Some(viewer) = self.take_out(slot) else {
            return;
        };
        let ufrag = viewer.ufrag.clone();
        if !self.directory.moves(&ufrag, by) {
            return;
        }
        if let Err(Passed::Viewer(viewer, heard)) =
            self.others.pass(by, Passed::Viewer(viewer, heard))
        {
            // Unless it was struck out in the meantime.
            if self.directory.moves(&ufrag, self.others.own()) {
                self.take_in(now, viewer, heard, dirty);
            }
        }
    }

    fn take_in(
        &mut self,
        now: Instant,
        mut viewer: Box<Entry>,
        heard: Datagram,
        dirty: &mut Dirty,
    ) {
        viewer.due = now + ANSWER_FIRST;
        let slot = self.admit(viewer, dirty);
        if self.stopping
            && let Some(entry) = self.registry.get_mut(slot)
        {
            entry.connection.stop(now, &self.context);
        }
        self.registry.is_here(heard.from);
        // It names the viewer, so that it is somebody's.
        let _ = self.registry.deliver(now, heard, dirty);
    }
}
