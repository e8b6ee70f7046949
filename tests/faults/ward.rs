//! A box with a good channel and ailing ones, each with a viewer at its live edge.

use std::fs::Permissions;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::origin::{Fault, Listed, Live, Origin, newer_than};
use crate::support::daemon::{BINARY, Daemon, Setup};
use crate::support::viewer::{Incoming, Viewer};
use crate::support::{LOOK_EVERY, eventually};
use crate::table::{Row, rows};

/// Until a fault is told, or is over: connections are waited for, and failing origins asked less
/// and less often.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a REQUEST. The box begins to answer within `request-hold`, and ends what it has begun within
/// 5 s, one way or the other.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longer than by default, for machines that are busy.
const MORE: &str = "[peer]\nudp-port = 0\nrequest-hold = \"3s\"\n";
/// Viewers join one after the other, in whichever test: the handshakes of a dozen at once keep a small
/// machine from all else for seconds.
static JOINING: Semaphore = Semaphore::const_new(1);

/// What viewers get while something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewers {
    /// Every segment, whole.
    AreServed,
    /// LACK, and load it from the origin themselves; before the fault is known, one may be cut off.
    AreRefused,
}

/// What a REQUEST came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The whole segment.
    Served,
    /// LACK.
    Refused,
    /// The channel ended in the middle of it.
    CutOff,
    /// Nothing, or not all of it.
    Hangs,
}

#[derive(Debug)]
struct Sight {
    segment: Listed,
    answer: Answer,
}

/// A fault that comes and goes.
pub(crate) struct Case {
    channel: &'static str,
    viewers: Viewers,
    fault: Fault,
    right: Option<fn(&Live, &Listed, &Bytes) -> bool>,
}

impl Case {
    /// The row of the table, what its viewers get meanwhile, and what is wrong.
    pub(crate) fn new(channel: &'static str, viewers: Viewers, fault: Fault) -> Self {
        Self {
            channel,
            viewers,
            fault,
            right: None,
        }
    }

    /// Where that is not just the bytes of the segment.
    pub(crate) fn right_is(self, right: fn(&Live, &Listed, &Bytes) -> bool) -> Self {
        Self {
            right: Some(right),
            ..self
        }
    }
}

/// A box and its channels.
pub(crate) struct Ward {
    daemon: Daemon,
    good: Patient,
}

/// A channel.
pub(crate) struct Patient {
    pub(crate) origin: Arc<Origin>,
    row: Row,
    url: String,
    sights: Arc<Mutex<Vec<Sight>>>,
    watching: Mutex<Option<AbortOnDropHandle<()>>>,
    /// How many lines the log of the channel, and how many sights its viewer had before the fault.
    baseline: Mutex<(usize, usize)>,
}

impl Ward {
    /// With these channels, which are well.
    pub(crate) async fn open(patients: &[Patient]) -> Self {
        let ward = Self::with(patients, BINARY.into()).await;
        join_all(patients.iter().map(|patient| patient.is_well(&ward))).await;
        ward
    }

    /// With these, well or not; the box runs as `binary`.
    pub(crate) async fn with(patients: &[Patient], binary: PathBuf) -> Self {
        let origin = Origin::start().await;
        let url = origin.url();
        let row = Row {
            channel: "good".into(),
            ..Row::default()
        };
        let good = Patient::of(row, origin, url);
        let mut setup = Setup::channel("good", good.url.clone());
        for patient in patients {
            // A name lives as long as the test.
            let name: &'static str = patient.row.channel.clone().leak();
            setup = setup.and_channel(name, patient.url.clone());
        }
        setup.binary = Some(binary);
        setup.more = MORE.into();
        let daemon = Daemon::start_ailing(setup).await;
        let ward = Self { daemon, good };
        ward.good.watch(&ward);
        patients.iter().for_each(|patient| patient.watch(&ward));
        ward.good.is_well(&ward).await;
        ward
    }

    /// Each of these faults runs its course, all at the same time.
    pub(crate) async fn treat<const N: usize>(cases: [Case; N]) {
        let mut patients = Vec::new();
        for case in &cases {
            let origin = Origin::start().await;
            let url = origin.url();
            patients.push(Patient::new(case.channel, origin, url));
        }
        let ward = Self::open(&patients).await;
        let courses = patients.iter().zip(cases).map(|(patient, case)| {
            let ward = &ward;
            async move {
                if let Some(right) = case.right {
                    patient.origin.right_is(right);
                }
                patient.origin.misbehave(case.fault);
                patient.suffers(ward, case.viewers).await;
                patient.origin.behave();
                patient.recovers(ward).await;
            }
        });
        join_all(courses).await;
        ward.close(&patients).await;
    }

    /// Nothing of this touched the good channel; what `edgeseed status` and the metrics say of the
    /// others agrees with what their viewers saw.
    pub(crate) async fn close(self, patients: &[Patient]) {
        for patient in patients {
            patient.is_told_in_the_log(&self).await;
            patient.the_numbers_agree(&self).await;
        }
        let since = self.good.baseline.lock().unwrap().1;
        self.good.saw(since..self.good.seen(), Viewers::AreServed);
        // A second connection is tried where a busy machine keeps the first one waiting.
        assert!(self.good.origin.most_requests_of_a_segment() <= 2);
        let problems = self.daemon.problems().await;
        assert_eq!(problems, "", "when all is over");
        let log = self.log_of(&self.good);
        assert!(log.iter().all(|line| !line.starts_with("WARN")), "{log:#?}");
    }

    /// What `edgeseed status` prints.
    async fn status(&self) -> String {
        let url = self.daemon.pages();
        let asked = spawn_blocking(move || {
            let mut status = Command::new(BINARY);
            status.args(["status", "--url", &url]).output().unwrap()
        });
        String::from_utf8(asked.await.unwrap().stdout).unwrap()
    }

    /// The lines of the log about a channel or its host, without their times.
    fn log_of(&self, patient: &Patient) -> Vec<String> {
        let log = self.daemon.stderr();
        let about = [
            format!(" channel {}: ", patient.row.channel),
            format!(" {} can", patient.url.split(['/', ':']).nth(3).unwrap()),
        ];
        let lines = log.lines();
        let lines = lines.filter(|line| about.iter().any(|about| line.contains(about)));
        let plain = |line: &str| {
            let (_, line) = line.split_once(' ').unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        lines.map(plain).collect()
    }
}

impl Row {
    /// What the status says of it, if anything: what the log does, without what is about the log or
    /// known from elsewhere.
    fn told(&self) -> Option<&str> {
        let told = self
            .log
            .iter()
            .find_map(|line| line.strip_prefix("WARN channel "));
        let (_, told) = told?.split_once(": ")?;
        let told = told.trim_end_matches("; tries again");
        Some(told.split_once(".m3u8: ").map_or(told, |(_, told)| told))
    }
}

impl Patient {
    /// The channel of a row of the table.
    pub(crate) fn new(channel: &str, origin: Origin, url: String) -> Self {
        let row = rows().into_iter().find(|row| row.channel == channel);
        let row = row.unwrap_or_else(|| panic!("docs/faults.md has no row {channel}"));
        Self::of(row, origin, url)
    }

    fn of(row: Row, origin: Origin, url: String) -> Self {
        Self {
            origin: Arc::new(origin),
            row,
            url,
            sights: Arc::default(),
            watching: Mutex::default(),
            baseline: Mutex::default(),
        }
    }

    /// A viewer joins, and asks for each segment as soon as it is listed.
    fn watch(&self, ward: &Ward) {
        let (origin, sights) = (Arc::clone(&self.origin), Arc::clone(&self.sights));
        let task = watch(ward.daemon.signal.clone(), self.url.clone(), origin, sights);
        let task = AbortOnDropHandle::new(tokio::spawn(task));
        *self.watching.lock().unwrap() = Some(task);
    }

    /// The viewer is served, and nothing is said to be wrong. What was until now is of no
    /// interest later.
    pub(crate) async fn is_well(&self, ward: &Ward) {
        self.is_served(ward).await;
        *self.baseline.lock().unwrap() = (ward.log_of(self).len(), self.seen());
    }

    async fn is_served(&self, ward: &Ward) {
        let channel = &self.row.channel;
        let about = format!("channel {channel}: ");
        eventually(&format!("{channel} is well"), PATIENCE, async || {
            let problems = ward.daemon.problems().await;
            (!problems.contains(&about)).then_some(())
        })
        .await;
        let from = self.seen();
        eventually(&format!("{channel} is served"), PATIENCE, async || {
            self.must_watch();
            let sights = self.sights.lock().unwrap();
            let mut last = sights.iter().skip(from).rev().take(2);
            let served = last.len() == 2 && last.all(|sight| sight.answer == Answer::Served);
            served.then_some(())
        })
        .await;
    }

    /// What is wrong is told in the words of the table, and the viewer gets what is expected.
    pub(crate) async fn suffers(&self, ward: &Ward, viewers: Viewers) {
        if let Some(told) = self.row.told() {
            self.is_told(ward, told).await;
        }
        self.gets(viewers).await;
    }

    /// The viewer gets for three segments what is expected.
    pub(crate) async fn gets(&self, viewers: Viewers) {
        // What was asked already, and is answered now, is of no account; nor is the first after it,
        // which may be cut off.
        let from = self.seen() + 2;
        self.sees(from + 3).await;
        self.saw(from..self.seen(), viewers);
    }

    /// By `/api/status`, by `edgeseed status`, and by the metrics.
    async fn is_told(&self, ward: &Ward, told: &str) {
        let channel = &self.row.channel;
        let told = format!("channel {channel}: {told}");
        let what = format!("{told:?} in the status");
        eventually(&what, PATIENCE, async || {
            self.must_watch();
            let problems = ward.daemon.problems().await;
            problems
                .lines()
                .any(|line| is_like(line, &told))
                .then_some(())
        })
        .await;
        eventually(&format!("{what} that is printed"), PATIENCE, async || {
            let status = ward.status().await;
            let mut lines = status.lines().map(str::trim_start);
            let (told, begin) = (format!("! {told}"), format!("{channel} "));
            let is_told = lines.clone().any(|line| is_like(line, &told));
            let fails = lines.any(|line| line.starts_with(&begin) && line.contains(" failing "));
            (is_told && fails).then_some(())
        })
        .await;
        eventually(&format!("{channel} in the metrics"), PATIENCE, async || {
            let labels = format!("{{channel=\"{channel}\"}}");
            let lag = format!("edgeseed_live_edge_lag_seconds{labels}");
            let mut wrong = ward.daemon.metric(&lag).await;
            for kind in ["playlist", "segment"] {
                let labels = format!("{{channel=\"{channel}\",kind=\"{kind}\",result=\"error\"}}");
                let errors = format!("edgeseed_origin_requests_total{labels}");
                wrong += ward.daemon.metric(&errors).await;
            }
            (wrong > 0.0).then_some(())
        })
        .await;
    }

    /// All that the table says, and once.
    pub(crate) async fn is_told_in_the_log(&self, ward: &Ward) {
        let since = self.baseline.lock().unwrap().0;
        let mut log = Vec::new();
        let told = async {
            loop {
                log = ward.log_of(self).split_off(since);
                let row = &self.row.log;
                let same = log.len() == row.len();
                if same && log.iter().zip(row).all(|(line, row)| is_like(line, row)) {
                    return;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        let told = timeout(PATIENCE, told).await.is_ok();
        let Row {
            channel, log: row, ..
        } = &self.row;
        assert!(told, "the log of {channel} is {log:#?}, not {row:#?}");
    }

    /// The box is well again without anybody's help.
    pub(crate) async fn recovers(&self, ward: &Ward) {
        self.is_served(ward).await;
    }

    pub(crate) fn seen(&self) -> usize {
        self.sights.lock().unwrap().len()
    }

    pub(crate) async fn sees(&self, count: usize) {
        let what = format!("{count} answers for {}", self.row.channel);
        eventually(&what, PATIENCE, async || {
            self.must_watch();
            (self.seen() >= count).then_some(())
        })
        .await;
    }

    fn saw(&self, range: Range<usize>, viewers: Viewers) {
        for sight in &self.sights.lock().unwrap()[range] {
            let expected = match viewers {
                Viewers::AreServed => Answer::Served,
                Viewers::AreRefused => Answer::Refused,
            };
            let (channel, segment) = (&self.row.channel, &sight.segment);
            assert_eq!(sight.answer, expected, "{channel}: {segment:?}");
        }
    }

    /// A viewer who saw wrong bytes has panicked.
    fn must_watch(&self) {
        let watching = self.watching.lock().unwrap();
        let stopped = watching.as_ref().is_some_and(|task| task.is_finished());
        assert!(!stopped, "the viewer of {} stopped", self.row.channel);
    }

    async fn the_numbers_agree(&self, ward: &Ward) {
        *self.watching.lock().unwrap() = None;
        let channel = &self.row.channel;
        let (served, refused, cut_off) = {
            let sights = self.sights.lock().unwrap();
            let count = |what| sights.iter().filter(|sight| sight.answer == what).count();
            assert_eq!(count(Answer::Hangs), 0, "{sights:#?}");
            let served = count(Answer::Served);
            (served, count(Answer::Refused), count(Answer::CutOff))
        };
        // Until the fault is known.
        assert!(cut_off <= 3, "{channel}: {cut_off} were cut off");
        let count = async |result: &str| {
            let labels = format!("{{channel=\"{channel}\",result=\"{result}\"}}");
            ward.daemon
                .metric(&format!("edgeseed_requests_total{labels}"))
                .await as usize
        };
        // What was asked last may have been answered after the viewer went.
        let hits = count("hit").await + count("held").await;
        let lacks = count("lack").await;
        let served = served + cut_off;
        assert!(
            (served..=served + 1).contains(&hits),
            "{served} served, {hits} counted"
        );
        assert!(
            (refused..=refused + 1).contains(&lacks),
            "{refused} refused, {lacks} counted"
        );
    }
}

async fn watch(
    server: String,
    channel: String,
    origin: Arc<Origin>,
    sights: Arc<Mutex<Vec<Sight>>>,
) {
    let mut viewer = join(&server, &channel).await;
    let mut last = None;
    loop {
        let segment = newer_than(&origin, last.as_ref()).await;
        let asked = timeout(ANSWER_WITHIN, ask(&mut viewer, &segment)).await;
        let answer = match asked {
            Ok(Some(Some(bytes))) => {
                origin.must_be_right(&segment, &bytes);
                Answer::Served
            }
            Ok(Some(None)) => Answer::Refused,
            Ok(None) => {
                viewer = join(&server, &channel).await;
                Answer::CutOff
            }
            Err(_) => Answer::Hangs,
        };
        sights.lock().unwrap().push(Sight {
            segment: segment.clone(),
            answer,
        });
        last = Some(segment);
    }
}

async fn join(server: &str, channel: &str) -> Viewer {
    let _one_at_a_time = JOINING.acquire().await.unwrap();
    Viewer::join(server, channel).await
}

/// The segment, or `None` for LACK; `None` if the channel ends before that.
async fn ask(viewer: &mut Viewer, segment: &Listed) -> Option<Option<Bytes>> {
    viewer.send_request(&segment.uri, segment.sequence).await;
    let mut header: Option<Value> = None;
    let mut bytes = BytesMut::new();
    loop {
        match (viewer.next().await?, &header) {
            (Incoming::Text(text), None) if text["url"] != segment.uri.as_str() => {}
            (Incoming::Text(text), None) if text["event"] == "LACK" => return Some(None),
            (Incoming::Text(text), None) => header = Some(text),
            (Incoming::Binary(packet), Some(header)) => {
                bytes.extend_from_slice(&packet);
                if header["size"] == bytes.len() {
                    return Some(Some(bytes.freeze()));
                }
            }
            (Incoming::Text(text), Some(_)) => assert_eq!(text["event"], "KEEPALIVE"),
            (Incoming::Binary(_), None) => panic!("a packet that no BINARY announced"),
        }
    }
}

/// Writes a script that runs the box in its own way.
pub(crate) fn script(dir: &Path, lines: &str) -> PathBuf {
    let path = dir.join("edgeseed");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// Whether `text` is what `pattern` says.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((start, mut rest)) = pattern.split_once('…') else {
        return text == pattern;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    while let Some((part, more)) = rest.split_once('…') {
        let Some((_, after)) = text.split_once(part) else {
            return false;
        };
        (text, rest) = (after, more);
    }
    text.ends_with(rest)
}
