//! The one UDP port: datagrams in, batches of datagrams out (UDP GSO through `quinn-udp`), over one socket
//! for each task.
//!
//! A kernel without UDP GSO, which is one from before 2018 (Linux 4.18), as set-top boxes have them, gets
//! many datagrams in one call of sendmmsg(2); so it is with a network card that turns out not to be able to.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use bytes::BytesMut;
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
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

/// Bytes of send buffer asked of the kernel, for all sockets together: what waits for the network card. A few milliseconds of
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
        let socket = || socket(SEND_BUFFER / sockets.max(1));
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

fn socket(send_buffer: usize) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel's limit may be lower; what it grants is what there is.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = socket.set_send_buffer_size(send_buffer);
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
        while let Some(first) = self.queue.front() {
            let (to, has_gso) = (first.to, self.state.max_gso_segments() > 1);
            let (tried, result) = match has_gso {
                true => self.send_batch(),
                false => self.send_many(),
            };
            let gone = match result {
                Ok(count) => {
                    let gone = self.queue.range(..count);
                    sent += gone.map(|datagram| datagram.bytes.len()).sum::<usize>();
                    count
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    break;
                }
                Err(error) => {
                    log::debug!("cannot send to {to}: {error}");
                    tried
                }
            };
            self.queue.drain(..gone);
        }
        sent
    }

    /// Sends the first datagrams of the queue, of one length and to one address, by UDP GSO. Gives how
    /// many were tried, and how many were sent.
    fn send_batch(&mut self) -> (usize, io::Result<usize>) {
        let count = self.fill_batch();
        let Some(first) = self.queue.front() else {
            return (0, Ok(0));
        };
        let transmit = Transmit {
            destination: first.to,
            ecn: None,
            contents: &self.batch,
            segment_size: (count > 1).then_some(first.bytes.len()),
            src_ip: Some(first.from.ip()).filter(|ip| !ip.is_unspecified()),
        };
        let (io, state) = (&self.io, &self.state);
        let sent = io.try_io(Interest::WRITABLE, || state.try_send(io.into(), &transmit));
        (count, sent.map(|()| count))
    }

    /// Sends the first datagrams of the queue, to whomever, by sendmmsg(2). Gives how many are lost if
    /// that fails, and how many were sent.
    fn send_many(&mut self) -> (usize, io::Result<usize>) {
        let from = self.queue.front().map(|first| first.from.ip());
        // What the call is told of the source holds for all of them.
        let many = self.queue.iter().take(MAX_BATCH);
        let many = many.take_while(|datagram| Some(datagram.from.ip()) == from);
        let (slices, to): (Vec<_>, Vec<_>) = many
            .map(|datagram| {
                let to = Some(SockaddrStorage::from(datagram.to));
                ([IoSlice::new(&datagram.bytes)], to)
            })
            .unzip();
        let info = match from {
            Some(IpAddr::V4(from)) if !from.is_unspecified() => Some(in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr {
                    s_addr: u32::from_ne_bytes(from.octets()),
                },
                ipi_addr: in_addr { s_addr: 0 },
            }),
            _ => None,
        };
        let space = info.map(|_| nix::cmsg_space!(in_pktinfo));
        let info: Vec<_> = info.iter().map(ControlMessage::Ipv4PacketInfo).collect();
        let mut headers = MultiHeaders::preallocate(slices.len(), space);
        let sent = self.io.try_io(Interest::WRITABLE, || {
            let (fd, flags) = (self.io.as_raw_fd(), MsgFlags::empty());
            let sent = sendmmsg(fd, &mut headers, &slices, &to, &info, flags)?;
            Ok(sent.count())
        });
        // It fails with what it says of the first.
        (1, sent)
    }

    /// Copies together what the next system call sends; gives how many datagrams that is. All are of
    /// the length of the first, but the last may be shorter.
    fn fill_batch(&mut self) -> usize {
        self.batch.clear();
        let Some(first) = self.queue.front() else {
            return 0;
        };
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
        count
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

    fn open() -> Socket {
        let [bound] = Port::bind(0, 1).unwrap().sockets().try_into().ok().unwrap();
        bound.open().unwrap()
    }

    #[tokio::test]
    async fn a_kernel_without_gso_is_given_many_datagrams_of_many_in_one_call() {
        let mut socket = open();
        let receivers: Vec<_> = (0..3)
            .map(|_| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        // Another address of the same machine than the one that the kernel would choose.
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), socket.port()));
        for number in 0..9_u8 {
            socket.queue(Datagram {
                from,
                to: receivers[usize::from(number) % 3].local_addr().unwrap(),
                bytes: BytesMut::from(&vec![number; 100 + usize::from(number)][..]),
            });
        }
        socket.io.writable().await.unwrap();
        assert_eq!(socket.send_many().1.unwrap(), 9);
        for number in 0..9_u8 {
            let mut bytes = [0; 2000];
            let (length, sender) = receivers[usize::from(number) % 3]
                .recv_from(&mut bytes)
                .unwrap();
            assert_eq!((length, bytes[0]), (100 + usize::from(number), number));
            assert_eq!(sender, from);
        }
    }

    #[tokio::test]
    async fn a_datagram_that_cannot_be_sent_costs_the_others_nothing() {
        let mut socket = open();
        let receiver = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = receiver.local_addr().unwrap();
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for to in [to, nowhere, to] {
            let bytes = BytesMut::from(&b"a datagram"[..]);
            let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            socket.queue(Datagram { from, to, bytes });
        }
        socket.io.writable().await.unwrap();
        let sent: Vec<_> = std::iter::from_fn(|| {
            let (lost, result) = (!socket.queue.is_empty()).then(|| socket.send_many())?;
            socket
                .queue
                .drain(..result.as_ref().copied().unwrap_or(lost));
            Some(result.is_ok())
        })
        .collect();
        assert_eq!(sent, [true, false, true]);
        for _ in 0..2 {
            assert_eq!(receiver.recv(&mut [0; 100]).unwrap(), 10);
        }
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
