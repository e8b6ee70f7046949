//! What serving costs at the very least: to encrypt, to sum up, and to hand to the kernel what a
//! segment is made of, in the largest batches that it takes, to a process that reads and forgets.

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;

use quinn_udp::{Transmit, UdpSocketState};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::process::{Cpu, cpu};

/// Bytes of a record: what this box puts into a datagram.
const RECORD: usize = 1327;

/// Datagrams of one system call: 64 is the most.
const BATCH: usize = 48;

/// Processor time for so many MB.
pub(crate) async fn measure(megabytes: usize) -> (Cpu, f64) {
    let mut sink = Command::new(std::env::current_exe().unwrap())
        .args(["--role", "sink "])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(sink.stdout.take().unwrap()).lines();
    let port = said.next_line().await.unwrap().unwrap();
    let destination = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    let before = cpu("self");
    tokio::task::spawn_blocking(move || send(destination, megabytes * 1_000_000))
        .await
        .unwrap();
    let used = cpu("self").since(before);
    sink.kill().await.unwrap();
    (used, megabytes as f64 / 1e3)
}

fn send(destination: SocketAddr, bytes: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let state = UdpSocketState::new((&socket).into()).unwrap();
    socket.set_nonblocking(false).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
    let source = vec![0x47; RECORD];
    let batch = BATCH.min(state.max_gso_segments());
    let mut contents = Vec::new();
    for number in 0..(bytes / RECORD) as u64 {
        let mut record = source.clone();
        // As SCTP sums up what it sends.
        let sum = crc32c::crc32c(&record);
        record[..4].copy_from_slice(&sum.to_be_bytes());
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::empty(), &mut record)
            .unwrap();
        let segment_size = record.len();
        contents.extend_from_slice(&record);
        if contents.len() >= batch * segment_size {
            let transmit = Transmit {
                destination,
                ecn: None,
                contents: &contents,
                segment_size: Some(segment_size),
                src_ip: None,
            };
            state.try_send((&socket).into(), &transmit).unwrap();
            contents.clear();
        }
    }
}

/// Reads and forgets, until it is killed.
pub(crate) async fn sink() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    println!("{}", socket.local_addr().unwrap().port());
    let mut buffer = [0; 2048];
    loop {
        socket.recv(&mut buffer).unwrap();
    }
}
