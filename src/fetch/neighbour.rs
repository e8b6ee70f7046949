//! A segment from a sibling, another box of the operator's in this LAN, in place of the origin.

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::downloads::Means;
use crate::ids::BoxId;
use crate::sibling::{Ask, DELIVER_WITHIN, MAX_PARTS, Part};
use crate::store::{Announced, StoreError};

/// What came of asking one sibling.
enum Outcome {
    /// The segment is in the store.
    Stored,
    /// It does not have it.
    Lack,
    /// It could not deliver, which says nothing of the next time.
    Failed(&'static str),
    /// It should have delivered: it is left alone for a while.
    Unreliable(&'static str),
}

/// Asks one sibling after the other for a segment whose name has had its meaning since `epoch`.
/// `false`: none of them delivered in time, it is for the origin to.
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
    let numbers = &means.board.metrics.siblings;
    let began = Instant::now();
    for sibling in means.siblings.to_ask(channel, uri, began.into_std()) {
        if began.elapsed() > DELIVER_WITHIN / 2 {
            // Those before have taken their time, and the origin needs some.
            break;
        }
        let asked = from(means, announced, epoch, &sibling);
        let (why, shun) = match timeout_at(began + DELIVER_WITHIN, asked).await {
            Ok(Ok(Outcome::Stored)) => {
                numbers.ok.add(1);
                return Ok(true);
            }
            Ok(Ok(Outcome::Lack)) => {
                numbers.lack.add(1);
                continue;
            }
            Ok(Ok(Outcome::Failed(why))) => (why, false),
            Ok(Ok(Outcome::Unreliable(why))) => (why, true),
            Ok(Err(error)) => return Err(error),
            Err(_) => ("it took too long", true),
        };
        numbers.failed.add(1);
        log::info!(
            "channel {channel}: segment {sequence}: the sibling box {sibling} did not deliver: {why}"
        );
        if shun {
            let now = Instant::now().into_std();
            means.siblings.shun(channel, sibling, now);
        }
    }
    Ok(false)
}

async fn from(
    means: &Means,
    announced: &Announced,
    epoch: Instant,
    sibling: &BoxId,
) -> Result<Outcome, StoreError> {
    let channel = &means.board.channel;
    let Some(playlist) = means.store.playlist(channel, announced.rendition) else {
        return Ok(Outcome::Lack);
    };
    let (answer, mut parts) = mpsc::channel(MAX_PARTS);
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
        return Ok(Outcome::Lack);
    }
    let mut writer = None;
    loop {
        match (parts.recv().await, &mut writer) {
            (Some(Part::Size { bytes, crc32c }), None) => {
                let mut begun = means.store.begin(channel, announced, Some(bytes)).await?;
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
            (Some(Part::Lack), _) => return Ok(Outcome::Lack),
            (Some(Part::Failed(why)), _) => return Ok(Outcome::Failed(why)),
            (Some(Part::Unreliable(why)), _) => return Ok(Outcome::Unreliable(why)),
            (None, _) => return Ok(Outcome::Failed("its channel is gone, or the disk too slow")),
            (Some(Part::Size { .. } | Part::Packet(..) | Part::End), _) => {
                return Ok(Outcome::Unreliable("its answer came in the wrong order"));
            }
        }
    }
    let Some(writer) = writer else {
        return Ok(Outcome::Unreliable("it sent nothing"));
    };
    match writer.commit().await {
        Ok(_) => Ok(Outcome::Stored),
        Err(StoreError::Digest) => Ok(Outcome::Unreliable("its bytes are not what it announced")),
        Err(error) => Err(error),
    }
}
