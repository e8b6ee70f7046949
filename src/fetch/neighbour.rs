//! A segment from a sibling, another box of the operator's in this LAN, in place of the origin.

use std::fmt;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::downloads::Means;
use crate::ids::BoxId;
use crate::sibling::{Ask, Part};
use crate::store::{Announced, StoreError};

/// Why a sibling did not deliver.
enum Miss {
    /// It does not have it.
    Lack,
    /// It should have and did not: it is left alone for a while.
    Failed(Failure),
}

enum Failure {
    Sibling(&'static str),
    Bytes(StoreError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sibling(what) => f.write_str(what),
            Self::Bytes(error) => error.fmt(f),
        }
    }
}

/// Asks one sibling after the other for a segment whose name has had its meaning since `epoch`.
/// `false`: none of them delivered, it is for the origin to.
///
/// # Errors
/// [`StoreError`] for what no other source would mend.
pub(super) async fn fetch(
    means: &Means,
    announced: &Announced,
    epoch: Instant,
) -> Result<bool, StoreError> {
    let channel = &means.board.channel;
    let Announced { uri, sequence, .. } = announced;
    let siblings = means
        .siblings
        .to_ask(channel, uri, Instant::now().into_std());
    for sibling in siblings {
        let numbers = &means.board.metrics.siblings;
        match from(means, announced, epoch, &sibling).await? {
            Ok(()) => {
                numbers.ok.add(1);
                return Ok(true);
            }
            Err(Miss::Lack) => numbers.lack.add(1),
            Err(Miss::Failed(failure)) => {
                numbers.failed.add(1);
                log::info!(
                    "channel {channel}: segment {sequence}: the sibling box {sibling} did not \
                     deliver: {failure}; taken from the origin"
                );
                let now = Instant::now().into_std();
                means.siblings.shun(channel, sibling, now);
                // There may be no time for a second one.
                return Ok(false);
            }
        }
    }
    Ok(false)
}

async fn from(
    means: &Means,
    announced: &Announced,
    epoch: Instant,
    sibling: &BoxId,
) -> Result<Result<(), Miss>, StoreError> {
    let failed = |what| Ok(Err(Miss::Failed(Failure::Sibling(what))));
    let channel = &means.board.channel;
    let Some(playlist) = means.store.playlist(channel, announced.rendition) else {
        return Ok(Err(Miss::Lack));
    };
    let (answer, mut parts) = mpsc::unbounded_channel();
    let asked = means.siblings.ask(Ask {
        to: sibling.clone(),
        channel: channel.clone(),
        uri: announced.uri.clone(),
        sequence: announced.sequence,
        playlist,
        epoch_age: epoch.elapsed(),
        answer,
    });
    if !asked {
        return Ok(Err(Miss::Lack));
    }
    let mut writer = None;
    loop {
        match (parts.recv().await, &mut writer) {
            (Some(Part::Size { bytes, crc32c }), None) => {
                let mut begun = means.store.begin(channel, announced, Some(bytes))?;
                if let Some(crc32c) = crc32c {
                    begun.expect_crc32c(crc32c);
                }
                writer = Some(begun);
            }
            (Some(Part::Packet(bytes, share)), Some(writer)) => {
                writer.write(&bytes).await?;
                means.board.metrics.siblings.bytes.add(bytes.len() as u64);
                drop(share);
            }
            (Some(Part::End), Some(_)) => break,
            (Some(Part::Lack), _) => return Ok(Err(Miss::Lack)),
            (Some(Part::Failed(what)), _) => return failed(what),
            (None, _) => return failed("it is gone"),
            (Some(Part::Size { .. } | Part::Packet(..) | Part::End), _) => {
                return failed("it sent its answer in the wrong order");
            }
        }
    }
    let Some(writer) = writer else {
        return failed("it sent nothing");
    };
    match writer.commit().await {
        Ok(_) => Ok(Ok(())),
        Err(error @ StoreError::Digest) => Ok(Err(Miss::Failed(Failure::Bytes(error)))),
        Err(error) => Err(error),
    }
}
