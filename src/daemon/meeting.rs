//! Where signalling and peers meet: offers go one way, answers the other. Each side keeps its own
//! words; this is the translation.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::mpsc;

use crate::ids::ChannelName;
use crate::peer::{self, PeerKey};
use crate::signal::{SignalData, client};

/// Hands what viewers of one channel signal to the peers, until the signalling client ends.
pub(super) async fn offers(
    channel: ChannelName,
    mut from_server: mpsc::Receiver<client::Event>,
    peers: mpsc::Sender<peer::Command>,
) {
    while let Some(event) = from_server.recv().await {
        for command in commands(&channel, event) {
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

fn commands(channel: &ChannelName, event: client::Event) -> Vec<peer::Command> {
    let key = |peer| PeerKey {
        channel: channel.clone(),
        peer,
    };
    match event {
        client::Event::Signal { from, data, .. } => match data {
            SignalData::Offer { sdp } => vec![peer::Command::Offer { key: key(from), sdp }],
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
    to_servers: Vec<(ChannelName, mpsc::Sender<client::Command>)>,
) {
    let to_servers: HashMap<_, _> = to_servers.into_iter().collect();
    while let Some(event) = from_peers.recv().await {
        let (key, command) = match event {
            peer::Event::Answer { key, sdp } => {
                let to = key.peer.clone();
                let data = SignalData::Answer { sdp };
                (key, client::Command::Signal { to, data })
            }
            peer::Event::Failed { key } => {
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
