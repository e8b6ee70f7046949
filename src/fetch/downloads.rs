//! The segments of one rendition that are to be fetched: a few at a time, the most useful first,
//! each once, and again only if it failed.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{OriginClient, OriginError};
use super::lan::LanPlaylists;
use super::neighbour;
use super::pace::{Pace, Place, Places};
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
/// Of one rendition, whatever the others have: the one that is wanted most, and one that it has
/// overtaken.
const OWN: usize = 2;
/// How long nothing may come of a segment before those that are wanted less are begun as well.
const STANDS_STILL: Duration = Duration::from_millis(1500);
/// What one download holds in memory: 64 KiB on their way to the disk, and some 190 at most in the
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
    pub(super) lan: watch::Sender<LanPlaylists>,
}

/// The downloads of one rendition, or of its initialization sections. Dropped, it gives up what was not finished.
#[derive(Debug)]
pub(super) struct Downloads {
    means: Means,
    rendition: RenditionIndex,
    /// The most wanted first.
    queue: VecDeque<Job>,
    active: HashMap<MediaSequence, Active>,
    /// The highest rank that there was when segments were last added.
    best: Rank,
    tasks: JoinSet<(Job, Result<(), DownloadError>)>,
    /// Connections that failed since a segment last arrived.
    failures_in_a_row: u32,
    /// Segments that came at the first attempt since one did not.
    trust: u32,
}

/// The higher, the sooner it is wanted.
type Rank = u64;

/// Which end of a list its viewers are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The live edge.
    NewestFirst,
    /// The beginning, of a recording.
    OldestFirst,
}

#[derive(Debug)]
struct Active {
    announced: Announced,
    task: AbortHandle,
    rank: Rank,
    /// Bytes that have come.
    received: Arc<AtomicU64>,
    /// What had come when more last had.
    moved: (u64, Instant),
}

impl Active {
    /// Whether more of it has come lately.
    fn moves(&mut self, now: Instant) -> bool {
        let received = self.received.load(Ordering::Relaxed);
        if received > self.moved.0 {
            self.moved = (received, now);
        }
        now.saturating_duration_since(self.moved.1) < STANDS_STILL
    }
}

#[derive(Clone, Debug)]
struct Job {
    announced: Announced,
    rank: Rank,
    epoch: Instant,
    failures: u32,
    not_before: Instant,
}

/// How a segment is fetched.
struct Terms {
    /// While it arrives, viewers may be sent it: the origin will bring the rest.
    trusted: bool,
    /// How far it is behind what is wanted most of its rendition.
    behind: u64,
    received: Arc<AtomicU64>,
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

    /// Whether a part had come: what viewers may have been sent of it is lost to them.
    fn is_half_way(&self) -> bool {
        match self {
            Self::Origin(OriginError::Truncated { got, .. } | OriginError::Stalled { got, .. }) => {
                *got > 0
            }
            Self::Origin(OriginError::Changed) => true,
            _ => false,
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
            best: 0,
            tasks: JoinSet::new(),
            failures_in_a_row: 0,
            trust: TRUSTED_AFTER,
        }
    }

    /// Announces `segments` and fetches them, from the one that is `wanted` most. Their numbers have had
    /// this meaning since `epoch`.
    pub(super) fn add(&mut self, segments: Vec<Announced>, epoch: Instant, wanted: Wanted) {
        let now = Instant::now();
        self.means
            .store
            .announce(&self.means.board.channel, &segments);
        let waiting = self.queue.iter().map(|job| job.rank);
        let active = self.active.values().map(|active| active.rank);
        // Not of all time: numbers may begin anew.
        self.best = waiting.chain(active).max().unwrap_or(0);
        for announced in segments {
            let rank = match wanted {
                Wanted::NewestFirst => announced.sequence.0,
                Wanted::OldestFirst => Rank::MAX - announced.sequence.0,
            };
            self.best = self.best.max(rank);
            self.put_in_line(Job {
                announced,
                rank,
                epoch,
                failures: 0,
                not_before: now,
            });
        }
        self.start(now);
    }

    fn put_in_line(&mut self, job: Job) {
        let before = self.queue.partition_point(|other| other.rank > job.rank);
        self.queue.insert(before, job);
    }

    /// Stops fetching these.
    pub(super) fn cancel(&mut self, sequences: &[MediaSequence]) {
        self.queue
            .retain(|job| !sequences.contains(&job.announced.sequence));
        for sequence in sequences {
            if let Some(active) = self.active.remove(sequence) {
                active.task.abort();
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

    /// Starts what there is room for. None is begun while one that is wanted more is on its way: where
    /// the uplink is the bottleneck, each would take the other's share, and the live edge would be late
    /// for the sake of the window's tail.
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
            let moving = self.active.values_mut().filter_map(|active| {
                let moves = active.moves(now);
                moves.then_some(active.rank)
            });
            let most_wanted = moving.max();
            let mut jobs = self.queue.iter();
            let due = jobs.position(|job| most_wanted <= Some(job.rank) && is_due(job));
            let Some(index) = due else { break };
            let Some(place) = self.means.places.take(self.active.len() < OWN) else {
                break;
            };
            let Some(job) = self.queue.remove(index) else {
                break;
            };
            self.begin(job, place, now);
        }
        proving
    }

    fn begin(&mut self, job: Job, place: Place, now: Instant) {
        let (announced, rank) = (job.announced.clone(), job.rank);
        let received = Arc::new(AtomicU64::new(0));
        let terms = Terms {
            trusted: self.trust >= TRUSTED_AFTER,
            // Numbers of one rendition say nothing of another's.
            behind: match self.rendition.is_sections() {
                true => 0,
                false => self.best.saturating_sub(rank),
            },
            received: Arc::clone(&received),
        };
        let means = self.means.clone();
        let task = self.tasks.spawn(async move {
            let result = download(&means, &job, &terms).await;
            drop(place);
            (job, result)
        });
        let active = Active {
            announced: announced.clone(),
            task,
            rank,
            received,
            moved: (0, now),
        };
        self.active.insert(announced.sequence, active);
    }

    /// A download was cancelled, or had a bug.
    fn stopped(&mut self, id: Id) {
        let stopped = self.active.extract_if(|_, active| active.task.id() == id);
        for (_, active) in stopped {
            let channel = &self.means.board.channel;
            self.means.store.give_up(channel, &active.announced);
        }
    }

    fn ended(&mut self, id: Id, mut job: Job, result: Result<(), DownloadError>) {
        let sequence = job.announced.sequence;
        let what = match self.rendition.is_sections() {
            true => format!("the initialization section {}", job.announced.uri),
            false => format!("segment {sequence}"),
        };
        // If it was cancelled as it ended, another one may be active under its number.
        let active = self.active.get(&sequence);
        let mine = active.is_some_and(|active| active.task.id() == id);
        if !mine {
            return;
        }
        self.active.remove(&sequence);
        let channel = &self.means.board.channel;
        self.trust = match &result {
            Ok(()) if job.failures == 0 => self.trust.saturating_add(1),
            Err(error) if error.is_half_way() => 0,
            _ => self.trust,
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
                self.put_in_line(job);
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
        for active in self.active.values() {
            store.give_up(channel, &active.announced);
        }
    }
}

/// Brings one segment into the store: from another box of this LAN, or else from the origin.
async fn download(means: &Means, job: &Job, terms: &Terms) -> Result<(), DownloadError> {
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
    let result = stream(means, job, terms).await;
    drop(share);
    let counted = means.board.metrics.origin(OriginKind::Segment);
    match &result {
        Ok(()) => counted.ok.add(1),
        Err(error) if error.is_the_origins() => counted.error.add(1),
        Err(_) => {}
    }
    result
}

/// Streams one segment from the origin into the store.
async fn stream(means: &Means, job: &Job, terms: &Terms) -> Result<(), DownloadError> {
    let mut body = means.client.segment(&job.announced.resource).await?;
    let answered = Instant::now().into_std();
    let channel = &means.board.channel;
    let mut writer = means
        .store
        .begin(channel, &job.announced, body.length())
        .await?;
    if terms.trusted {
        writer.serve_meanwhile(answered);
    }
    let lane = means.pace.enter(terms.behind);
    while let Some(bytes) = body.next().await? {
        means.board.metrics.origin_bytes.add(bytes.len() as u64);
        writer.write(&bytes).await?;
        terms
            .received
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        lane.spend(Instant::now().into_std(), bytes.len());
        let is_whole = body.length() == Some(body.received());
        while let Some(wait) = lane.wait(Instant::now().into_std()).filter(|_| !is_whole) {
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
