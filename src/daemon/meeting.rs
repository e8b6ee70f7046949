//! Where signalling and peers meet: offers go one way, answers the other. Each side keeps its own
//! words; this is the translation.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::ids::ChannelName;
use crate::peer::{self, PeerKey};
use crate::signal::{DataForm, SignalData, client};

/// Viewers remembered for having sent `data` as a string; further ones are answered with an
/// object, which every known client takes. More offers than this are never under way.
const MAX_SPELLERS: usize = 1024;

/// Who sent its offer as a string and is owed the answer as one (protocol.md section 3).
#[derive(Debug, Default)]
pub(super) struct Spellers(Mutex<HashSet<PeerKey>>);

impl Spellers {
    fn remember(&self, key: &PeerKey, form: DataForm) {
        let mut spellers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if form == DataForm::Text && spellers.len() < MAX_SPELLERS {
            spellers.insert(key.clone());
        }
    }

    fn take(&self, key: &PeerKey) -> DataForm {
        let mut spellers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spellers.remove(key) {
            DataForm::Text
        } else {
            DataForm::Object
        }
    }
}

/// Hands what viewers of one channel signal to the peers, until the signalling client ends.
pub(super) async fn offers(
    channel: ChannelName,
    mut from_server: mpsc::Receiver<client::Event>,
    peers: mpsc::Sender<peer::Command>,
    spellers: &Spellers,
) {
    while let Some(event) = from_server.recv().await {
        for command in commands(&channel, event, spellers) {
            if peers.send(command).await.is_err() {
                // The peers have stopped; what still comes in is of no use to anybody.
                return drain(from_server).await;
            }
        }
    }
}

async fn drain(mut from_server: mpsc::Receiver<client::Event>) {
    while from_server.recv().await.is_some() {}
}

fn commands(
    channel: &ChannelName,
    event: client::Event,
    spellers: &Spellers,
) -> Vec<peer::Command> {
    let key = |peer| PeerKey {
        channel: channel.clone(),
        peer,
    };
    match event {
        client::Event::Signal { from, data, form } => match data {
            SignalData::Offer { sdp, .. } => {
                let key = key(from);
                spellers.remember(&key, form);
                vec![peer::Command::Offer { key, sdp }]
            }
            SignalData::Candidate { candidate, .. } => vec![peer::Command::Candidate {
                key: key(from),
                candidate,
            }],
            // We make no offers, so nobody owes us an answer.
            SignalData::Answer { .. } | SignalData::EndOfCandidates => Vec::new(),
        },
        client::Event::Drop { peers } => peers
            .into_iter()
            .map(|peer| peer::Command::Drop { key: key(peer) })
            .collect(),
        // An offer follows a `connect`; open channels outlive the signalling socket.
        _ => Vec::new(),
    }
}

/// Hands what the peers have to say to the signalling client of their channel, until the peers
/// end.
pub(super) async fn answers(
    mut from_peers: mpsc::Receiver<peer::Event>,
    to_servers: HashMap<ChannelName, mpsc::Sender<client::Command>>,
    spellers: &Spellers,
) {
    while let Some(event) = from_peers.recv().await {
        let (key, command) = match event {
            peer::Event::Answer { key, sdp } => {
                let to = key.peer.clone();
                let data = SignalData::Answer { sdp, sibling: None };
                let form = spellers.take(&key);
                (key, client::Command::Signal { to, data, form })
            }
            peer::Event::Failed { key } => {
                spellers.take(&key);
                let peer = key.peer.clone();
                (key, client::Command::Failed { peer })
            }
        };
        // Never waits: a channel whose signalling is gone must not hold up the others.
        if let Some(server) = to_servers.get(&key.channel)
            && let Err(error) = server.try_send(command)
        {
            log::debug!("{key}: cannot be answered: {error}");
        }
    }
}
