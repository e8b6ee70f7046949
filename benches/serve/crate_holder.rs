//! The `webrtc` crate as a holder: its window of 256 KiB did best in stack.md.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rtc::ice::mdns::MulticastDnsMode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCSessionDescription, SettingEngineBuilder,
};

use super::support::signalling::Signalling;

const MESSAGE: usize = 60 * 1024;
const WINDOW: usize = 256 * 1024;

#[derive(Deserialize)]
struct Told {
    signal: String,
    channel: String,
    first: u64,
    size: usize,
    marks: Vec<u32>,
}

type Segments = Arc<HashMap<u64, Bytes>>;

struct Handler {
    segments: Segments,
    gathered: std::sync::Mutex<Option<oneshot::Sender<()>>>,
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete
            && let Some(gathered) = self.gathered.lock().unwrap().take()
        {
            let _ = gathered.send(());
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        tokio::spawn(answer_requests(channel, Arc::clone(&self.segments)));
    }
}

/// Enters the channel, says so, and serves until it is killed.
pub(crate) async fn serve(told: &str) {
    let told: Told = serde_json::from_str(told).unwrap();
    let segments = told.marks.iter().zip(told.first..).map(|(mark, number)| {
        let mut bytes = vec![0x47; told.size];
        bytes[1..5].copy_from_slice(&mark.to_be_bytes());
        (number, Bytes::from(bytes))
    });
    let segments: Segments = Arc::new(segments.collect());
    let mut signalling = Signalling::enter(&told.signal, &told.channel).await;
    println!("entered");
    let mut connections = Vec::new();
    while let Some(message) = signalling.next().await {
        if message["action"] == "signal" && message["data"]["type"] == "offer" {
            let offer = message["data"]["sdp"].as_str().unwrap().to_owned();
            let (connection, answer) = connect(offer, Arc::clone(&segments)).await;
            connections.push(connection);
            signalling
                .signal(
                    &message["from_peer_id"],
                    json!({ "type": "answer", "sdp": answer }),
                )
                .await;
        }
    }
}

async fn connect(offer: String, segments: Segments) -> (Arc<dyn PeerConnection>, String) {
    let (gathered, is_gathered) = oneshot::channel();
    let settings = SettingEngineBuilder::new()
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .build();
    let connection: Arc<dyn PeerConnection> = Arc::new(
        PeerConnectionBuilder::new()
            .with_setting_engine(settings)
            .with_handler(Arc::new(Handler {
                segments,
                gathered: std::sync::Mutex::new(Some(gathered)),
            }))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .with_data_channel_send_buffer_limit(WINDOW)
            .build()
            .await
            .unwrap(),
    );
    let offer = RTCSessionDescription::offer(offer).unwrap();
    connection.set_remote_description(offer).await.unwrap();
    let answer = connection.create_answer(None).await.unwrap();
    connection.set_local_description(answer).await.unwrap();
    is_gathered.await.unwrap();
    let described = connection.local_description().await.unwrap();
    (connection, described.sdp)
}

async fn answer_requests(channel: Arc<dyn DataChannel>, segments: Segments) {
    while let Some(event) = channel.poll().await {
        let DataChannelEvent::OnMessage(message) = event else {
            continue;
        };
        let request: Value = serde_json::from_slice(&message.data).unwrap();
        let segment = &segments[&request["sn"].as_u64().unwrap()];
        let header = json!({
            "event": "BINARY", "url": request["url"], "sn": request["sn"], "size": segment.len(),
            "attachments": segment.len().div_ceil(MESSAGE),
        });
        channel.send_text(&header.to_string()).await.unwrap();
        for packet in segment.chunks(MESSAGE) {
            // The viewer may have gone.
            if channel.send(BytesMut::from(packet)).await.is_err() {
                return;
            }
        }
    }
}
