//! Which task is told what.
//!
//! Everything that has to do with siblings is of the first task, so that it knows all of them. Viewers are
//! dealt out by their keys, and may be handed over since ([`super::others`]): what concerns one that has
//! been admitted is told to all.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{mpsc, oneshot};

use super::{Command, PeerKey, PeerStatus};

/// The task of the siblings.
const FIRST: usize = 0;

/// What a task is told.
pub(super) enum Told {
    /// To do this.
    Command(Command),
    /// That this peer has made a new offer, to another task.
    OfferedElsewhere(PeerKey),
}

/// Tells the tasks what signalling says. Does not end by itself: they may have to finish something after
/// signalling has said its last.
pub(super) async fn deal(
    mut commands: mpsc::Receiver<Command>,
    tasks: Vec<mpsc::Sender<Told>>,
) -> Infallible {
    while let Some(command) = commands.recv().await {
        match command {
            Command::List(reply) => {
                // Whoever asked may have gone in the meantime.
                let _ = reply.send(list(&tasks).await);
            }
            Command::Drop { key } => {
                for task in &tasks {
                    tell(task, Told::Command(Command::Drop { key: key.clone() })).await;
                }
            }
            Command::Offer {
                ref key, ref proof, ..
            } => {
                let chosen = match proof {
                    Some(_) => FIRST,
                    None => chosen(key, tasks.len()),
                };
                for (_, task) in tasks.iter().enumerate().filter(|(i, _)| *i != chosen) {
                    tell(task, Told::OfferedElsewhere(key.clone())).await;
                }
                tell(&tasks[chosen], Told::Command(command)).await;
            }
            // Those of viewers are not looked at.
            Command::Candidate { .. } | Command::Call { .. } | Command::Answer { .. } => {
                tell(&tasks[FIRST], Told::Command(command)).await;
            }
        }
    }
    std::future::pending().await
}

fn chosen(key: &PeerKey, tasks: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % tasks as u64) as usize
}

async fn tell(task: &mpsc::Sender<Told>, told: Told) {
    // One that has ended has nobody left to be told of.
    let _ = task.send(told).await;
}

async fn list(tasks: &[mpsc::Sender<Told>]) -> Vec<PeerStatus> {
    let mut all = Vec::new();
    for task in tasks {
        let (reply, answer) = oneshot::channel();
        tell(task, Told::Command(Command::List(reply))).await;
        all.extend(answer.await.unwrap_or_default());
    }
    all.sort_by(|a, b| (&a.channel, &a.id).cmp(&(&b.channel, &b.id)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;

    fn key(number: i64) -> PeerKey {
        PeerKey {
            channel: "news".into(),
            peer: PeerId::Number(number),
        }
    }

    fn offer(key: PeerKey) -> Command {
        Command::Offer {
            key,
            sdp: String::new(),
            proof: None,
        }
    }

    struct Dealt {
        commands: mpsc::Sender<Command>,
        tasks: Vec<mpsc::Receiver<Told>>,
    }

    fn dealing() -> Dealt {
        let (commands, heard) = mpsc::channel(100);
        let (senders, tasks) = (0..3).map(|_| mpsc::channel(100)).unzip();
        tokio::spawn(deal(heard, senders));
        Dealt { commands, tasks }
    }

    #[tokio::test]
    async fn an_offer_goes_to_one_task_always_the_same_and_the_others_let_go_of_that_peer() {
        let mut dealt = dealing();
        let mut chosen = [0; 3];
        for number in 0..64 {
            let mut who = Vec::new();
            for _ in 0..2 {
                dealt.commands.send(offer(key(number))).await.unwrap();
                for (index, task) in dealt.tasks.iter_mut().enumerate() {
                    match task.recv().await.unwrap() {
                        Told::Command(Command::Offer { key: of, .. }) => {
                            assert_eq!(of, key(number));
                            who.push(index);
                        }
                        Told::OfferedElsewhere(of) => assert_eq!(of, key(number)),
                        Told::Command(other) => panic!("{other:?}"),
                    }
                }
            }
            assert!(who.len() == 2 && who[0] == who[1], "{who:?}");
            chosen[who[0]] += 1;
        }
        assert!(chosen.iter().all(|count| *count > 0), "{chosen:?}");
    }

    #[tokio::test]
    async fn all_are_told_to_drop_a_peer_and_the_first_one_to_call_one() {
        let mut dealt = dealing();
        dealt
            .commands
            .send(Command::Call { key: key(1) })
            .await
            .unwrap();
        dealt
            .commands
            .send(Command::Drop { key: key(2) })
            .await
            .unwrap();
        let first = dealt.tasks[0].recv().await;
        assert!(matches!(first, Some(Told::Command(Command::Call { .. }))));
        for task in &mut dealt.tasks {
            let told = task.recv().await;
            assert!(matches!(told, Some(Told::Command(Command::Drop { .. }))));
        }
    }

    #[tokio::test]
    async fn the_list_has_the_peers_of_all_tasks_in_order_and_does_without_one_that_has_ended() {
        let mut dealt = dealing();
        drop(dealt.tasks.pop());
        let (reply, list) = oneshot::channel();
        dealt.commands.send(Command::List(reply)).await.unwrap();
        for (task, number) in dealt.tasks.iter_mut().zip([2, 1]) {
            let Some(Told::Command(Command::List(reply))) = task.recv().await else {
                panic!("asked for something else");
            };
            reply.send(vec![status(number)]).unwrap();
        }
        let ids: Vec<_> = list
            .await
            .unwrap()
            .into_iter()
            .map(|peer| peer.id)
            .collect();
        assert_eq!(ids, [PeerId::Number(1), PeerId::Number(2)]);
    }

    fn status(number: i64) -> PeerStatus {
        let PeerKey { channel, peer: id } = key(number);
        PeerStatus {
            channel,
            id,
            open: true,
            address: None,
            age_seconds: 0,
            segments: 0,
            bytes: 0,
            lacks: 0,
            sibling: false,
        }
    }
}
