//! Another box of the same operator, as this one sees it: it proves that it knows the secret, is
//! asked for segments, and answers as it is told to. The proof is built here anew, from its
//! description.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ring::hmac;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::origin::Origin;
use super::viewer::{Form, Incoming, Viewer};

/// What the boxes share.
pub(crate) const SECRET: &str = "nobody guesses this one";

/// What this sibling calls itself.
const ID: &str = "box of the tests";

/// Bytes of a packet.
const PACKET: usize = 60 * 1024;

/// How it answers a REQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// With the segment.
    Honest,
    /// With LACK.
    Lacks,
    /// Not at all.
    Silent,
    /// With a header and half of the packets, then with nothing.
    StopsHalfWay,
    /// With less than it announced.
    TooFewBytes,
    /// With more than it announced.
    TooManyBytes,
    /// With a packet less than it announced, and on to the next.
    TooFewPackets,
    /// With a packet that it did not announce.
    TooManyPackets,
    /// With other bytes than its own digest says.
    WrongDigest,
    /// With half of the segment, and its end.
    Dies,
    /// With CLOSE.
    SaysClose,
    /// With ERROR.
    SaysError,
}

/// A sibling whose channel is open.
pub(crate) struct Sibling {
    asked: Arc<Mutex<Vec<Value>>>,
    _task: AbortOnDropHandle<()>,
}

impl Sibling {
    pub(crate) async fn join(server: &str, origin: &Arc<Origin>, behaviour: Behaviour) -> Self {
        let viewer = Viewer::try_join(server, &origin.url(), Form::Sibling(SECRET)).await;
        let viewer = viewer.expect("a channel to the box");
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let task = tokio::spawn(answer(
            viewer,
            Arc::clone(origin),
            behaviour,
            Arc::clone(&asked),
        ));
        Self {
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The REQUESTs so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    mut viewer: Viewer,
    origin: Arc<Origin>,
    behaviour: Behaviour,
    asked: Arc<Mutex<Vec<Value>>>,
) {
    while let Some(message) = viewer.next().await {
        let Incoming::Text(request) = message else {
            panic!("the box sends what nobody asked for");
        };
        if request["event"] != "REQUEST" {
            continue;
        }
        asked.lock().unwrap().push(request.clone());
        let segment = origin.segment(request["sn"].as_u64().unwrap());
        match behaviour {
            Behaviour::Silent => {}
            Behaviour::Lacks => {
                let lack = json!({ "event": "LACK", "url": request["url"], "sn": request["sn"] });
                viewer.send_text(&lack.to_string()).await;
            }
            Behaviour::SaysClose => viewer.send_text(r#"{"event":"CLOSE"}"#).await,
            Behaviour::SaysError => viewer.send_text(r#"{"event":"ERROR"}"#).await,
            _ if deliver(&viewer, &request, segment, behaviour).await => {}
            _ => return viewer.leave().await,
        }
    }
}

/// `false`: that was its end.
async fn deliver(viewer: &Viewer, request: &Value, segment: Bytes, behaviour: Behaviour) -> bool {
    let size = match behaviour {
        Behaviour::TooFewBytes => segment.len() + 1,
        Behaviour::TooManyBytes => segment.len() - 1,
        _ => segment.len(),
    };
    let digest = match behaviour {
        Behaviour::WrongDigest => 0,
        _ => crc32c::crc32c(&segment),
    };
    let packets: Vec<&[u8]> = segment.chunks(PACKET).collect();
    let attachments = match behaviour {
        Behaviour::TooFewPackets => packets.len() + 1,
        Behaviour::TooManyPackets => packets.len() - 1,
        _ => packets.len(),
    };
    let header = json!({
        "event": "BINARY", "url": request["url"], "sn": request["sn"],
        "attachments": attachments, "size": size, "crc32c": digest,
    });
    viewer.send_text(&header.to_string()).await;
    let half = matches!(behaviour, Behaviour::StopsHalfWay | Behaviour::Dies);
    let sent = if half {
        packets.len() / 2
    } else {
        packets.len()
    };
    for packet in &packets[..sent] {
        viewer.send_binary(packet).await;
    }
    behaviour != Behaviour::Dies
}

/// What goes with an offer: an HMAC-SHA-256 with the secret over the kind of the message, the
/// channel, the box, the offer and the answer, each with its length before it.
pub(crate) fn proof(secret: &str, channel: &str, offer: &str) -> Value {
    json!({ "id": ID, "mac": mac(secret, "edgeseed offer", channel, ID, offer, "") })
}

/// Whether an answer proves that it comes from a box with this secret.
pub(crate) fn is_proved(secret: &str, channel: &str, offer: &str, answer: &Value) -> bool {
    let (Some(id), Some(sdp)) = (answer["sibling"]["id"].as_str(), answer["sdp"].as_str()) else {
        return false;
    };
    answer["sibling"]["mac"] == mac(secret, "edgeseed answer", channel, id, offer, sdp)
}

fn mac(secret: &str, kind: &str, channel: &str, id: &str, offer: &str, answer: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    for part in [kind, channel, id, offer, answer] {
        context.update(&u64::try_from(part.len()).unwrap().to_be_bytes());
        context.update(part.as_bytes());
    }
    let tag = context.sign();
    tag.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
