//! The one UDP socket: datagrams in, batches of datagrams out (UDP GSO through `quinn-udp`).

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::PeerError;

/// Bytes of receive and send buffer asked of the kernel. A default-sized receive buffer on a
/// shared port starved peers (stack.md: min/max share 0.01-0.07 against 0.90-0.94 with 4 MiB). The
/// kernel grants at most net.core.rmem_max, without an error.
const KERNEL_BUFFER: usize = 4 << 20;

/// Datagrams that one system call may send to one viewer. A burst of 54 (64 KiB) overruns a
/// browser's receive buffer of about 90 datagrams when two meet (stack.md, "Chromium as the
/// receiver"); batches of 16 cost hardly more CPU and leave it room.
const MAX_BATCH: usize = 16;

/// The most that one read can return: GRO merges at most 64 KiB.
const READ_BUFFER: usize = 64 * 1024;

pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    batch: Batch,
    read_buffer: Box<[u8]>,
}

/// Datagrams of one size from and to the same address, the last one may be shorter.
struct Batch {
    bytes: Vec<u8>,
    segment: usize,
    complete: bool,
    source: SocketAddr,
    destination: SocketAddr,
    max_datagrams: usize,
}

/// Datagrams that arrived together from one address.
pub(super) struct Received<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Received<'a> {
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.stride.max(1))
    }
}

impl Socket {
    pub(super) fn bind(port: u16) -> Result<Self, PeerError> {
        let error = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => PeerError::PortInUse(port),
            io::ErrorKind::PermissionDenied => PeerError::Permission(port),
            _ => PeerError::Socket(error),
        };
        let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
            .map_err(PeerError::Socket)?;
        // The kernel's limit may be lower; what it grants is what there is.
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        socket.set_nonblocking(true).map_err(PeerError::Socket)?;
        socket
            .bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
            .map_err(error)?;
        let io = UdpSocket::from_std(socket.into()).map_err(PeerError::Socket)?;
        let state = UdpSocketState::new((&io).into()).map_err(PeerError::Socket)?;
        let local = io.local_addr().map_err(PeerError::Socket)?;
        let max_datagrams = state.max_gso_segments().clamp(1, MAX_BATCH);
        Ok(Self {
            io,
            state,
            local,
            batch: Batch {
                bytes: Vec::new(),
                segment: 0,
                complete: false,
                source: local,
                destination: local,
                max_datagrams,
            },
            read_buffer: vec![0; READ_BUFFER].into_boxed_slice(),
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.local.port()
    }

    /// Waits until something can be read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Reads what is there, without waiting; `None` when nothing is.
    pub(super) fn read(&mut self) -> Option<Received<'_>> {
        let mut meta = [RecvMeta::default()];
        let (io, state) = (&self.io, &self.state);
        let mut slices = [IoSliceMut::new(&mut self.read_buffer)];
        // ICMP errors of vanished viewers come up here as well; they end by their own timers.
        let count = io
            .try_io(Interest::READABLE, || {
                state.recv(io.into(), &mut slices, &mut meta)
            })
            .ok()?;
        let [meta] = meta;
        if count == 0 {
            return None;
        }
        let mut to = self.local;
        if let Some(ip) = meta.dst_ip {
            to.set_ip(ip);
        }
        Some(Received {
            from: meta.addr,
            to,
            bytes: &self.read_buffer[..meta.len.min(READ_BUFFER)],
            stride: meta.stride,
        })
    }

    /// Adds a datagram to the batch, sending what cannot go with it first.
    pub(super) async fn queue(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        datagram: &[u8],
    ) {
        let batch = &self.batch;
        let fits = !batch.complete
            && destination == batch.destination
            && source == batch.source
            && datagram.len() <= batch.segment
            && batch.bytes.len() < batch.max_datagrams * batch.segment;
        if !fits {
            self.flush().await;
            self.batch.segment = datagram.len();
            self.batch.source = source;
            self.batch.destination = destination;
            self.batch.complete = false;
        }
        self.batch.complete |= datagram.len() < self.batch.segment;
        self.batch.bytes.extend_from_slice(datagram);
    }

    /// Sends what is queued. Waits while the kernel's buffer is full: that is the link's own pace.
    /// A datagram that the system refuses is lost like any other on the way.
    pub(super) async fn flush(&mut self) {
        if self.batch.bytes.is_empty() {
            return;
        }
        let transmit = Transmit {
            destination: self.batch.destination,
            ecn: None,
            contents: &self.batch.bytes,
            segment_size: (self.batch.bytes.len() > self.batch.segment)
                .then_some(self.batch.segment),
            src_ip: Some(self.batch.source.ip()).filter(|ip| !ip.is_unspecified()),
        };
        let (io, state) = (&self.io, &self.state);
        loop {
            match io.try_io(Interest::WRITABLE, || state.try_send(io.into(), &transmit)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if io.writable().await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    log::debug!("cannot send to {}: {error}", transmit.destination);
                    break;
                }
                Ok(()) => break,
            }
        }
        self.batch.bytes.clear();
        self.batch.segment = 0;
    }
}
