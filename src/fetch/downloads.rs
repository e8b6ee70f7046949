//! The segments of one rendition that are to be fetched: a few at a time, the most useful first,
//! each once, and again only if it failed.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{OriginClient, OriginError};
use super::neighbour;
use super::pace::{Pace, Places};
use super::segment::MAX_RESUMES;
use super::status::Board;
use crate::budget::Budget;
use crate::ids::{MediaSequence, RenditionIndex};
use crate::metrics::OriginKind;
use crate::sibling::Siblings;
use crate::store::{Announced, Store, StoreError};

/// Of one rendition: one that arrives at the live edge, one that is late, one of the backlog. More
/// would make each of them slower on an uplink that is busy.
const PARALLEL: usize = 3;
/// What one download holds in memory: 32 KiB on their way to the disk, and some 200 at most in the
/// HTTP client.
const RECEIVE_BUFFER: usize = 256 << 10;
/// After 0.25, 0.5, 1 and 2 s the viewers have gone elsewhere (protocol.md section 3).
const ATTEMPTS: u32 = 5;
/// Segments that have to come at the first attempt, after one that did not, before viewers are sent
/// one again while it still arrives: if that breaks off, they lose their channel, and nothing but
/// some time if they wait for the whole.
const TRUSTED_AFTER: u32 = 3;
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// What the downloads of all renditions share.
#[derive(Clone, Debug)]
pub(super) struct Means {
    pub(super) client: OriginClient,
    pub(super) store: Store,
    pub(super) budget: Budget,
    pub(super) siblings: Siblings,
    pub(super) pace: Pace,
    pub(super) places: Places,
    pub(super) board: Board,
}

/// The downloads of one rendition, or of its initialization sections. Dropped, it gives up what was not finished.
#[derive(Debug)]
pub(super) struct Downloads {
    means: Means,
    rendition: RenditionIndex,
    queue: VecDeque<Job>,
    active: HashMap<MediaSequence, (Announced, AbortHandle)>,
    tasks: JoinSet<(Job, Result<(), DownloadError>)>,
    /// Connections that failed since a segment last arrived.
    failures_in_a_row: u32,
    /// Segments that came at the first attempt since one did not.
    trust: u32,
}

#[derive(Clone, Debug)]
struct Job {
    announced: Announced,
    epoch: Instant,
    failures: u32,
    not_before: Instant,
}

impl Job {
    /// The newest first; but nothing can be played without its section.
    fn urgency(&self) -> u64 {
        match self.announced.rendition.is_sections() {
            true => u64::MAX,
            false => self.announced.sequence.0,
        }
    }
}

/// Why a segment did not get into the store.
#[derive(Debug)]
enum DownloadError {
    Origin(OriginError),
    Store(StoreError),
}

impl fmt::Display for DownloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl DownloadError {
    /// Whether it was for the origin to do better.
    fn is_the_origins(&self) -> bool {
        matches!(
            self,
            Self::Origin(_) | Self::Store(StoreError::Length { .. } | StoreError::Digest)
        )
    }

    /// How many connections failed: a body that broke off or stalled was taken up over others first.
    fn connections(&self) -> u32 {
        match self {
            Self::Origin(OriginError::Truncated { .. } | OriginError::Stalled { .. }) => {
                1 + MAX_RESUMES
            }
            _ => 1,
        }
    }

    /// Whether another attempt may succeed: after an error of the disk, one in memory. What is too
    /// large would only be loaded in vain again.
    fn may_pass(&self) -> bool {
        match self {
            Self::Origin(error) => !matches!(error, OriginError::TooLarge { .. }),
            Self::Store(error) => matches!(error, StoreError::Io { .. }),
        }
    }
}

impl From<OriginError> for DownloadError {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

impl From<StoreError> for DownloadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Downloads {
    pub(super) fn new(means: Means, rendition: RenditionIndex) -> Self {
        Self {
            means,
            rendition,
            queue: VecDeque::new(),
            active: HashMap::new(),
            tasks: JoinSet::new(),
            failures_in_a_row: 0,
            trust: TRUSTED_AFTER,
        }
    }

    /// Announces `segments` and fetches them in this order, before whatever still waits: they are
    /// nearer to the live edge. Their numbers have had this meaning since `epoch`.
    pub(super) fn add(&mut self, segments: Vec<Announced>, epoch: Instant) {
        let now = Instant::now();
        self.means
            .store
            .announce(&self.means.board.channel, &segments);
        let jobs = segments.into_iter().map(|announced| Job {
            announced,
            epoch,
            failures: 0,
            not_before: now,
        });
        let mut jobs: VecDeque<Job> = jobs.collect();
        jobs.append(&mut self.queue);
        self.queue = jobs;
        self.start(now);
    }

    /// Stops fetching these.
    pub(super) fn cancel(&mut self, sequences: &[MediaSequence]) {
        self.queue
            .retain(|job| !sequences.contains(&job.announced.sequence));
        for sequence in sequences {
            if let Some((_, task)) = self.active.remove(sequence) {
                task.abort();
            }
        }
    }

    /// Fetches until the caller stops waiting; to be dropped and called again at will.
    pub(super) async fn drive(&mut self) {
        loop {
            let mut changes = self.means.store.changes();
            let now = Instant::now();
            let proving = self.start(now);
            let later = self.queue.iter().map(|job| job.not_before);
            let retry = later.filter(|at| *at > now).min();
            let idle = self.active.len() < PARALLEL;
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => {
                    match ended {
                        Ok((id, (job, result))) => self.ended(id, job, result),
                        Err(error) => self.stopped(error.id()),
                    }
                    return;
                }
                () = sleep_until(retry.unwrap_or(now)), if idle && retry.is_some() => {}
                Ok(()) = changes.changed(), if idle && proving => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Starts what there is room for. None is begun while a newer one is on its way: where the uplink
    /// is the bottleneck, each would take the other's share, and the live edge would be late for the
    /// sake of the window's tail.
    ///
    /// Whether there is something that may be stored already, which is still to be seen: it takes
    /// nothing of the origin, and keeps nobody from it.
    fn start(&mut self, now: Instant) -> bool {
        let (store, channel) = (self.means.store.clone(), self.means.board.channel.clone());
        let mut proving = false;
        let mut is_due = |job: &Job| {
            let due = job.not_before <= now;
            let waits = due && store.is_being_proven(&channel, &job.announced);
            proving |= waits;
            due && !waits
        };
        while self.active.len() < PARALLEL {
            let newest = self.active.keys().max();
            let mut jobs = self.queue.iter();
            let due = jobs.position(|job| is_due(job) && newest <= Some(&job.announced.sequence));
            let Some(index) = due else { break };
            let Some(place) = self.means.places.take(self.active.is_empty()) else {
                break;
            };
            let Some(job) = self.queue.remove(index) else {
                break;
            };
            let announced = job.announced.clone();
            let means = self.means.clone();
            let trusted = self.trust >= TRUSTED_AFTER;
            let task = self.tasks.spawn(async move {
                let result = download(&means, &job, trusted).await;
                drop(place);
                (job, result)
            });
            self.active.insert(announced.sequence, (announced, task));
        }
        proving
    }

    /// A download was cancelled, or had a bug.
    fn stopped(&mut self, id: Id) {
        let stopped = self.active.extract_if(|_, (_, task)| task.id() == id);
        for (_, (announced, _)) in stopped {
            let channel = &self.means.board.channel;
            self.means.store.give_up(channel, &announced);
        }
    }

    fn ended(&mut self, id: Id, mut job: Job, result: Result<(), DownloadError>) {
        let sequence = job.announced.sequence;
        let what = match self.rendition.is_sections() {
            true => format!("the initialization section {}", job.announced.uri),
            false => format!("segment {sequence}"),
        };
        // If it was cancelled as it ended, another one may be active under its number.
        let mine = matches!(self.active.get(&sequence), Some((_, task)) if task.id() == id);
        if !mine {
            return;
        }
        self.active.remove(&sequence);
        let channel = &self.means.board.channel;
        self.trust = match result {
            Ok(()) if job.failures == 0 => self.trust.saturating_add(1),
            Ok(()) => self.trust,
            Err(_) => 0,
        };
        match result {
            Ok(()) => {
                self.failures_in_a_row = 0;
                self.means.board.segment(self.rendition, None);
            }
            Err(DownloadError::Store(StoreError::NotWanted)) => {}
            // The store says itself what is wrong with the disk; newer segments fare better.
            Err(DownloadError::Store(StoreError::NoMemory)) => {
                self.means.store.give_up(channel, &job.announced);
            }
            Err(error) if job.failures + 1 < ATTEMPTS && error.may_pass() => {
                log::debug!("channel {channel}: {what}: {error}; tries again");
                let connections = error.connections();
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(connections);
                if self.failures_in_a_row >= ATTEMPTS {
                    // Newer segments go before second tries, so that none may ever be given up.
                    let error = format!("segments fail, last {what}: {error}");
                    self.means.board.segment(self.rendition, Some(&error));
                }
                job.not_before = Instant::now() + FIRST_RETRY * (1 << job.failures);
                job.failures += 1;
                self.queue.push_front(job);
            }
            Err(error) => {
                self.means.store.give_up(channel, &job.announced);
                let error = format!("{what} given up: {error}");
                self.means.board.segment(self.rendition, Some(&error));
            }
        }
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        let (store, channel) = (&self.means.store, &self.means.board.channel);
        for job in &self.queue {
            store.give_up(channel, &job.announced);
        }
        for (announced, _) in self.active.values() {
            store.give_up(channel, announced);
        }
    }
}

/// Brings one segment into the store: from another box of this LAN, or else from the origin.
async fn download(means: &Means, job: &Job, trusted: bool) -> Result<(), DownloadError> {
    let channel = &means.board.channel;
    // What an earlier run stored costs nobody anything.
    if means.store.recall(channel, &job.announced).await {
        return Ok(());
    }
    let share = means.budget.take(RECEIVE_BUFFER).await;
    let attempt = means.siblings.attempt(channel, &job.announced.uri);
    let (announced, epoch) = (&job.announced, job.epoch);
    // A section's number is this box's own, and none is worth a round trip to a sibling.
    let shared = !announced.rendition.is_sections();
    if shared && job.failures == 0 && neighbour::fetch(means, announced, epoch).await? {
        return Ok(());
    }
    attempt.fetching();
    let result = stream(means, job, trusted).await;
    drop(share);
    let counted = means.board.metrics.origin(OriginKind::Segment);
    match &result {
        Ok(()) => counted.ok.add(1),
        Err(error) if error.is_the_origins() => counted.error.add(1),
        Err(_) => {}
    }
    result
}

/// Streams one segment from the origin into the store; while it arrives, viewers may be sent it if the
/// origin is `trusted` to bring the rest.
async fn stream(means: &Means, job: &Job, trusted: bool) -> Result<(), DownloadError> {
    let mut body = means.client.segment(&job.announced.resource).await?;
    let answered = Instant::now().into_std();
    let channel = &means.board.channel;
    let mut writer = means
        .store
        .begin(channel, &job.announced, body.length())
        .await?;
    if trusted {
        writer.serve_meanwhile(answered);
    }
    let lane = means.pace.enter(job.urgency());
    while let Some(bytes) = body.next().await? {
        means.board.metrics.origin_bytes.add(bytes.len() as u64);
        writer.write(&bytes).await?;
        lane.spend(Instant::now().into_std(), bytes.len());
        while let Some(wait) = lane.wait(Instant::now().into_std()) {
            sleep(wait).await;
        }
    }
    match writer.commit().await {
        // The origin's doing: it may have more next time.
        Err(StoreError::Empty) => Err(OriginError::Truncated {
            got: 0,
            expected: None,
        }
        .into()),
        result => Ok(result.map(drop)?),
    }
}
