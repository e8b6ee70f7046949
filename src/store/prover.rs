//! Reads back what earlier runs stored, one segment at a time: a card reads one file faster than
//! several at once. What somebody asks for goes first.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::index::Ticket;
use super::{Inner, Segment, StoreError, in_background};
use crate::ids::ChannelName;

/// How soon a segment is read again that could not be for want of descriptors.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What is to be read. Bounded by what is stored: each is here once.
#[derive(Debug, Default)]
pub(super) struct Prover {
    waiting: VecDeque<Proof>,
    /// The one being read.
    current: Option<Ticket>,
    running: bool,
}

#[derive(Debug)]
struct Proof {
    channel: ChannelName,
    segment: Arc<Segment>,
    ticket: Ticket,
}

impl Prover {
    fn add(&mut self, proof: Proof, urgent: bool) {
        let ticket = proof.ticket;
        let waiting = self.waiting.iter().position(|proof| proof.ticket == ticket);
        match waiting {
            Some(index) if urgent => drop(self.waiting.remove(index)),
            Some(_) => return,
            None if self.current == Some(ticket) => return,
            None => {}
        }
        match urgent {
            true => self.waiting.push_front(proof),
            false => self.waiting.push_back(proof),
        }
    }

    fn next(&mut self) -> Option<Proof> {
        let next = self.waiting.pop_front();
        self.current = next.as_ref().map(|proof| proof.ticket);
        self.running = next.is_some();
        next
    }
}

impl Inner {
    /// Has a segment read back, `urgent` or after all that wait; [`super::Store::changes`] tells.
    pub(super) fn prove(
        inner: &Arc<Self>,
        channel: &ChannelName,
        segment: Arc<Segment>,
        ticket: Ticket,
        urgent: bool,
    ) {
        let mut prover = inner.prover();
        let channel = channel.clone();
        let proof = Proof {
            channel,
            segment,
            ticket,
        };
        prover.add(proof, urgent);
        if !std::mem::replace(&mut prover.running, true) {
            drop(prover);
            // Whoever lets go of the store ends it.
            let weak = Arc::downgrade(inner);
            in_background(move || prove_all(&weak));
        }
    }

    fn prover(&self) -> MutexGuard<'_, Prover> {
        // Whole between its calls, whatever happened to another thread.
        self.prover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proved(self: &Arc<Self>, proof: &Proof, whole: bool) {
        let Proof {
            channel,
            segment,
            ticket,
        } = proof;
        let removed = self.index().proved(channel, segment, *ticket, whole);
        self.after_change(channel, Vec::from_iter(removed));
    }
}

fn prove_all(store: &Weak<Inner>) {
    loop {
        let Some(inner) = store.upgrade() else { return };
        let disk = inner.disk.clone();
        let Some(proof) = inner.prover().next() else {
            return;
        };
        let stands = inner
            .index()
            .is_unproven(&proof.channel, &proof.segment, proof.ticket);
        drop(inner);
        if !stands {
            continue;
        }
        let path = proof.segment.path().unwrap_or(Path::new("")).to_owned();
        let whole = proof.segment.is_whole(&disk);
        let whole = whole.map_err(StoreError::at(&path));
        if whole.as_ref().is_err_and(StoreError::is_about_us) {
            // It is tried again when there are descriptors, or memory, once more.
            std::thread::sleep(AGAIN_AFTER);
            if let Some(inner) = store.upgrade() {
                inner.prover().add(proof, false);
            }
            continue;
        }
        match &whole {
            Ok(true) => {}
            Ok(false) => log::warn!("{} is not whole, deleted", path.display()),
            Err(error) => log::warn!("{error}; deleted"),
        }
        if let Some(inner) = store.upgrade() {
            inner.proved(&proof, matches!(whole, Ok(true)));
        }
    }
}
