//! The one UDP port: datagrams in, batches of datagrams out (UDP GSO through `quinn-udp`), over one socket
//! for each task.
//!
//! A kernel without UDP GSO, which is one from before 2018 (Linux 4.18), gets one system call for each
//! datagram.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};

use bytes::BytesMut;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::PeerError;
use super::transport::Datagram;

/// Bytes of receive buffer asked of the kernel. A default-sized one on a shared port starved peers
/// (stack.md: min/max share 0.01-0.07 against 0.90-0.94 with 4 MiB). The kernel grants at most
/// net.core.rmem_max, without an error.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Bytes of send buffer asked of the kernel: what waits for the network card. A few milliseconds of
/// a fast link are enough to keep it busy; of a slow one it is what nobody can be served before.
const SEND_BUFFER: usize = 1 << 20;

/// Datagrams that one system call may send to one peer. More cost hardly less, and leave a browser's
/// receive buffer, which takes some 56 (`session::window`), no time to be read in between.
const MAX_BATCH: usize = 16;

/// Datagrams that wait for the kernel to take more. What comes then is retransmissions and answers of a
/// few peers; beyond that they are lost, like any others on the way.
const MAX_QUEUED: usize = 1024;

/// Datagrams, or groups of them merged by GRO, that one system call may read.
const READS: usize = 16;

/// The most that a group can hold.
const READ_BUFFER: usize = 64 * 1024;

/// The UDP port, taken and not yet used.
pub(super) struct Port {
    sockets: Vec<Bound>,
    number: u16,
}

/// One of its sockets.
pub(super) struct Bound(std::net::UdpSocket);

pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    queue: VecDeque<Datagram>,
    is_blocked: bool,
    /// Datagrams of one length to one address, as one system call sends them.
    batch: Vec<u8>,
    /// Pages of it that are never written take no memory.
    read_buffer: Box<[u8]>,
}

impl Port {
    /// Takes the port, with so many sockets on it; 0 is any port.
    pub(super) fn bind(port: u16, sockets: usize) -> Result<Self, PeerError> {
        let error = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => PeerError::PortInUse(port),
            io::ErrorKind::PermissionDenied => PeerError::Permission(port),
            _ => PeerError::Socket(error),
        };
        let first = socket().map_err(PeerError::Socket)?;
        first.bind(&any(port).into()).map_err(error)?;
        // Now, and not before: the first one shares the port with no other program.
        first.set_reuse_port(true).map_err(PeerError::Socket)?;
        let first = Bound(first.into());
        let number = first.0.local_addr().map_err(PeerError::Socket)?.port();
        let mut bound = vec![first];
        for _ in 1..sockets {
            let another = socket().map_err(PeerError::Socket)?;
            another.set_reuse_port(true).map_err(PeerError::Socket)?;
            another.bind(&any(number).into()).map_err(error)?;
            bound.push(Bound(another.into()));
        }
        Ok(Self {
            sockets: bound,
            number,
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Its sockets.
    pub(super) fn sockets(self) -> Vec<Bound> {
        self.sockets
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn socket() -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel's limit may be lower; what it grants is what there is.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    Ok(socket)
}

impl Bound {
    /// Opens it in the runtime of this thread.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(self) -> io::Result<Socket> {
        let Self(socket) = self;
        let local = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        // After `quinn-udp`, which forbids to fragment: a viewer behind a tunnel gets what is too long
        // for it in two pieces, where it would have got nothing.
        if let Err(error) = set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT) {
            log::warn!("viewers behind a tunnel may be out of reach: {error}");
        }
        Ok(Socket {
            io: UdpSocket::from_std(socket)?,
            state,
            local,
            queue: VecDeque::new(),
            is_blocked: false,
            batch: Vec::new(),
            read_buffer: vec![0; READS * READ_BUFFER].into_boxed_slice(),
        })
    }
}

impl Socket {
    pub(super) fn port(&self) -> u16 {
        self.local.port()
    }

    /// Waits until something can be read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Reads what is there, without waiting, and has `take` see each datagram. `true` when there may be
    /// more.
    pub(super) fn read(&mut self, mut take: impl FnMut(Datagram)) -> bool {
        let mut meta = [RecvMeta::default(); READS];
        let (io, state) = (&self.io, &self.state);
        let buffers: heapless::Vec<_, READS> = self
            .read_buffer
            .chunks_mut(READ_BUFFER)
            .map(IoSliceMut::new)
            .collect();
        let Ok(mut buffers) = buffers.into_array::<READS>() else {
            return false;
        };
        // ICMP errors of vanished viewers come up here as well; they end by their own timers.
        let mut count = 0;
        let all = io.try_io(Interest::READABLE, || {
            count = state.recv(io.into(), &mut buffers, &mut meta)?;
            match count {
                READS => Ok(()),
                // That was all: what comes from now on is news.
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        for (meta, buffer) in meta
            .iter()
            .zip(self.read_buffer.chunks(READ_BUFFER))
            .take(count)
        {
            let mut to = self.local;
            if let Some(ip) = meta.dst_ip {
                to.set_ip(ip);
            }
            for datagram in buffer[..meta.len.min(READ_BUFFER)].chunks(meta.stride.max(1)) {
                take(Datagram {
                    from: meta.addr,
                    to,
                    bytes: BytesMut::from(datagram),
                });
            }
        }
        all.is_ok()
    }

    /// Adds a datagram to what [`Self::flush`] sends.
    pub(super) fn queue(&mut self, datagram: Datagram) {
        if self.queue.len() < MAX_QUEUED {
            self.queue.push_back(datagram);
        }
    }

    /// Whether much is queued already.
    pub(super) fn is_filled(&self) -> bool {
        self.queue.len() >= MAX_QUEUED / 4
    }

    /// Whether the kernel takes no more: that is the link's own pace.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Waits until the kernel takes more.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// Sends what is queued, as far as the kernel takes it, and gives how many bytes that was. A
    /// datagram that the system refuses is lost like any other on the way.
    pub(super) fn flush(&mut self) -> usize {
        let mut sent = 0;
        self.is_blocked = false;
        while let Some(count) = self.next_batch() {
            let first = &self.queue[0];
            let segment = first.bytes.len();
            let transmit = Transmit {
                destination: first.to,
                ecn: None,
                contents: &self.batch,
                segment_size: (count > 1).then_some(segment),
                src_ip: Some(first.from.ip()).filter(|ip| !ip.is_unspecified()),
            };
            let (io, state) = (&self.io, &self.state);
            match io.try_io(Interest::WRITABLE, || state.try_send(io.into(), &transmit)) {
                Ok(()) => sent += self.batch.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    break;
                }
                Err(error) => log::debug!("cannot send to {}: {error}", transmit.destination),
            }
            self.queue.drain(..count);
        }
        sent
    }

    /// Copies together what the next system call sends; gives how many datagrams that is. All are of
    /// the length of the first, but the last may be shorter.
    fn next_batch(&mut self) -> Option<usize> {
        self.batch.clear();
        let first = self.queue.front()?;
        let (from, to, segment) = (first.from, first.to, first.bytes.len());
        // Falls to one when a network card turns out not to be able to.
        let most = self.state.max_gso_segments().clamp(1, MAX_BATCH);
        let mut count = 0;
        for datagram in self.queue.iter().take(most) {
            if datagram.to != to || datagram.from != from || datagram.bytes.len() > segment {
                break;
            }
            self.batch.extend_from_slice(&datagram.bytes);
            count += 1;
            if datagram.bytes.len() < segment {
                break;
            }
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_share_the_port_with_each_other_and_with_nobody_else() {
        let port = Port::bind(0, 3).unwrap();
        let number = port.number();
        for sockets in [1, 3] {
            let again = Port::bind(number, sockets);
            assert!(matches!(again, Err(PeerError::PortInUse(taken)) if taken == number));
        }
        assert_eq!(port.sockets().len(), 3);
    }

    #[tokio::test]
    async fn what_comes_from_many_ports_comes_up_at_every_socket() {
        const SENDERS: usize = 64;
        let port = Port::bind(0, 2).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        let mut sockets: Vec<Socket> = port
            .sockets()
            .into_iter()
            .map(|socket| socket.open().unwrap())
            .collect();
        for _ in 0..SENDERS {
            let sender = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            sender.send_to(b"check", to).unwrap();
        }
        let mut heard = [0; 2];
        while heard.iter().sum::<usize>() < SENDERS {
            for (socket, heard) in sockets.iter_mut().zip(&mut heard) {
                let ready =
                    tokio::time::timeout(std::time::Duration::from_millis(1), socket.readable());
                if ready.await.is_ok() {
                    while socket.read(|_| *heard += 1) {}
                }
            }
        }
        assert!(heard.iter().all(|heard| *heard > 0), "{heard:?}");
    }
}
