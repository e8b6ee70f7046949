//! One budget for every byte of media in flight (`[memory] max-buffers`): downloads and peers
//! take from it before they hold media, and give back by dropping the [`Share`].

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// The budget. Clones share one account.
#[derive(Clone, Debug)]
pub struct Budget {
    account: Arc<Account>,
}

struct Account {
    total: usize,
    used: AtomicUsize,
    freed: Notify,
    on_shortage: OnceLock<Box<dyn Fn(usize) + Send + Sync>>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("total", &self.total)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping a share gives its bytes back at once"]
pub struct Share {
    account: Arc<Account>,
    bytes: usize,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Self {
        Self {
            account: Arc::new(Account {
                total,
                used: AtomicUsize::new(0),
                freed: Notify::new(),
                on_shortage: OnceLock::new(),
            }),
        }
    }

    /// Bytes taken at the moment (`edgeseed_buffer_bytes`).
    pub fn used(&self) -> usize {
        self.account.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken at most.
    pub fn total(&self) -> usize {
        self.account.total
    }

    /// Has `give_up` called with the bytes that are missing whenever somebody cannot take what is
    /// needed: whoever holds what could be done without lets go of it there, at once. The first
    /// caller is the only one.
    pub fn on_shortage(&self, give_up: impl Fn(usize) + Send + Sync + 'static) {
        // One store per budget; a second one would only be held less well.
        let _ = self.account.on_shortage.set(Box::new(give_up));
    }

    /// Takes `bytes` now, or nothing: `None` means the budget has no room for them at present, not
    /// even without what could be done without.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let took = self.try_take_spare(bytes);
        if took.is_some() || bytes > self.account.total {
            return took;
        }
        self.account.on_shortage.get()?(self.missing(bytes));
        self.try_take_spare(bytes)
    }

    /// How many bytes are missing for `bytes` to be taken.
    pub fn missing(&self, bytes: usize) -> usize {
        (self.used() + bytes).saturating_sub(self.account.total)
    }

    /// Takes `bytes` of what nobody else needs, for what can be done without.
    pub fn try_take_spare(&self, bytes: usize) -> Option<Share> {
        let took = self
            .account
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes)
                    .filter(|sum| *sum <= self.account.total)
            });
        took.ok().map(|_| Share {
            account: Arc::clone(&self.account),
            bytes,
        })
    }

    /// Waits until `bytes` can be taken. More than the whole budget is cut down to the whole, so
    /// that this ends as soon as everybody else has given back.
    pub async fn take(&self, bytes: usize) -> Share {
        let bytes = bytes.min(self.account.total);
        loop {
            let freed = self.account.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(share) = self.try_take(bytes) {
                return share;
            }
            freed.await;
        }
    }
}

impl Share {
    /// How many bytes this share stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        drop(Self {
            account: Arc::clone(&self.account),
            bytes: surplus,
        });
    }

    /// Makes one share of two of the same budget.
    pub fn join(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.account, &other.account));
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_share_that_does_not_fit_is_refused_and_a_dropped_one_makes_room() {
        let budget = Budget::new(100);
        let first = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        drop(first);
        assert_eq!(budget.try_take(100).unwrap().bytes(), 100);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_can_be_done_without_is_let_go_for_what_is_needed() {
        let budget = Budget::new(100);
        let spare = Mutex::new(budget.try_take_spare(60));
        budget.on_shortage(move |missing| {
            assert_eq!(missing, 10);
            drop(spare.lock().unwrap().take());
        });
        assert!(budget.try_take_spare(50).is_none());
        let mut needed = budget.try_take(50).unwrap();
        needed.join(budget.try_take(10).unwrap());
        assert_eq!((needed.bytes(), budget.used()), (60, 60));
        needed.shrink_to(45);
        assert_eq!((needed.bytes(), budget.used()), (45, 45));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_a_dropped_share() {
        let budget = Budget::new(10);
        let held = budget.try_take(10).unwrap();
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(4).await.bytes() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiter.await.unwrap(), 4);
    }
}
