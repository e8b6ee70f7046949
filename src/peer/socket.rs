//! The one UDP port: datagrams in, batches of datagrams out (UDP GSO through `quinn-udp`), over one socket
//! for each task.
//!
//! A kernel without UDP GSO, which is one from before 2018 (Linux 4.18), as set-top boxes have them, gets
//! many datagrams in one call of sendmmsg(2); so it is with a network card that turns out not to be able to.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::Poll;

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

/// Bytes of send buffer asked of the kernel, for all sockets of the port together, and for that of each
/// call: what waits for the network card. A few milliseconds of a fast link are enough to keep it busy;
/// of a slow one it is what nobody can be served before.
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
    /// That of the port, and one for each call.
    lines: Vec<Line>,
    queue: VecDeque<Datagram>,
    /// The port of the line of which the kernel takes no more.
    blocked: Option<u16>,
    /// Datagrams of one length to one address, as one system call sends them.
    batch: Vec<u8>,
    /// Pages of it that are never written take no memory.
    read_buffer: Box<[u8]>,
}

/// A socket of the system's.
struct Line {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
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

fn first_ready<T>(polls: impl Iterator<Item = Poll<T>>) -> Poll<T> {
    // All are asked, so that each wakes whoever waits.
    polls.fold(Poll::Pending, |first, poll| match first {
        Poll::Ready(_) => first,
        Poll::Pending => poll,
    })
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
        Ok(Socket {
            lines: vec![Line::open(self.0)?],
            queue: VecDeque::new(),
            blocked: None,
            batch: Vec::new(),
            read_buffer: vec![0; READS * READ_BUFFER].into_boxed_slice(),
        })
    }
}

impl Line {
    fn open(socket: std::net::UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        // After `quinn-udp`, which forbids to fragment: a viewer behind a tunnel gets what is too long
        // for it in two pieces, where it would have got nothing.
        if let Err(error) = set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT) {
            log::warn!("viewers behind a tunnel may be out of reach: {error}");
        }
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            state,
            local,
        })
    }

    /// As [`Socket::read`].
    fn read(&self, read_buffer: &mut [u8], mut take: impl FnMut(Datagram)) -> bool {
        let mut meta = [RecvMeta::default(); READS];
        let (io, state) = (&self.io, &self.state);
        let buffers: heapless::Vec<_, READS> = read_buffer
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
        let read = meta.iter().zip(read_buffer.chunks(READ_BUFFER));
        for (meta, buffer) in read.take(count) {
            if meta.addr.port() == 0 {
                // Nobody can be there, and an answer would be refused by the kernel as if it could not
                // do GSO.
                continue;
            }
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
}

impl Socket {
    pub(super) fn port(&self) -> u16 {
        self.lines[0].local.port()
    }

    /// Opens a port for a call. Both ends of a call between two boxes would else have the same two
    /// addresses as another one, as where they share several channels, and nothing but its addresses
    /// says of a DTLS record whose it is.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open_line(&mut self) -> io::Result<u16> {
        let socket = socket(SEND_BUFFER)?;
        socket.bind(&any(0).into())?;
        let line = Line::open(socket.into())?;
        let port = line.local.port();
        self.lines.push(line);
        Ok(port)
    }

    /// Closes the port of a call; what waits to be sent from it is lost.
    pub(super) fn close_line(&mut self, port: u16) {
        let own = self.port();
        self.lines
            .retain(|line| line.local.port() == own || line.local.port() != port);
    }

    /// Waits until something can be read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            let ready = self
                .lines
                .iter()
                .map(|line| line.io.poll_recv_ready(context));
            first_ready(ready)
        })
        .await
    }

    /// Reads what is there, without waiting, and has `take` see each datagram. `true` when there may be
    /// more.
    pub(super) fn read(&mut self, mut take: impl FnMut(Datagram)) -> bool {
        let mut more = false;
        for line in &self.lines {
            more |= line.read(&mut self.read_buffer, &mut take);
        }
        more
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
        self.blocked.is_some()
    }

    /// Waits until the kernel takes more.
    pub(super) async fn writable(&self) -> io::Result<()> {
        poll_fn(|context| {
            let blocked = self
                .lines
                .iter()
                .filter(|line| Some(line.local.port()) == self.blocked);
            first_ready(blocked.map(|line| line.io.poll_send_ready(context)))
        })
        .await
    }

    /// Sends what is queued, as far as the kernel takes it, and gives how many bytes that was. A
    /// datagram that the system refuses is lost like any other on the way.
    pub(super) fn flush(&mut self) -> usize {
        let mut sent = 0;
        self.blocked = None;
        while let Some(first) = self.queue.front() {
            let (to, port) = (first.to, first.from.port());
            let (tried, result) = match self.line(port) {
                // The call is over.
                None => (1, Ok(1)),
                Some(line) if line.state.max_gso_segments() > 1 => self.send_batch(),
                Some(_) => self.send_many(),
            };
            let gone = match result {
                Ok(count) => {
                    let gone = self.queue.range(..count);
                    sent += gone.map(|datagram| datagram.bytes.len()).sum::<usize>();
                    count
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Some(port);
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

    /// The first datagram of the queue, and what it is sent by.
    fn first(&self) -> Option<(&Datagram, &Line)> {
        let first = self.queue.front()?;
        Some((first, self.line(first.from.port())?))
    }

    fn line(&self, port: u16) -> Option<&Line> {
        self.lines.iter().find(|line| line.local.port() == port)
    }

    /// Sends the first datagrams of the queue, of one length and to one address, by UDP GSO. Gives how
    /// many were tried, and how many were sent.
    fn send_batch(&mut self) -> (usize, io::Result<usize>) {
        let count = self.fill_batch();
        let Some((first, line)) = self.first() else {
            return (0, Ok(0));
        };
        let transmit = Transmit {
            destination: first.to,
            ecn: None,
            contents: &self.batch,
            segment_size: (count > 1).then_some(first.bytes.len()),
            src_ip: Some(first.from.ip()).filter(|ip| !ip.is_unspecified()),
        };
        let (io, state) = (&line.io, &line.state);
        let sent = io.try_io(Interest::WRITABLE, || state.try_send(io.into(), &transmit));
        (count, sent.map(|()| count))
    }

    /// Sends the first datagrams of the queue, to whomever, by sendmmsg(2). Gives how many are lost if
    /// that fails, and how many were sent.
    fn send_many(&mut self) -> (usize, io::Result<usize>) {
        let Some((first, line)) = self.first() else {
            return (0, Ok(0));
        };
        let from = first.from;
        // What the call is told of the source holds for all of them.
        let many = self.queue.iter().take(MAX_BATCH);
        let many = many.take_while(|datagram| datagram.from == from);
        let (slices, to): (Vec<_>, Vec<_>) = many
            .map(|datagram| {
                let to = Some(SockaddrStorage::from(datagram.to));
                ([IoSlice::new(&datagram.bytes)], to)
            })
            .unzip();
        let info = match from.ip() {
            IpAddr::V4(from) if !from.is_unspecified() => Some(in_pktinfo {
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
        let sent = line.io.try_io(Interest::WRITABLE, || {
            let (fd, flags) = (line.io.as_raw_fd(), MsgFlags::empty());
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
        let Some(line) = self.line(first.from.port()) else {
            return 0;
        };
        let (from, to, segment) = (first.from, first.to, first.bytes.len());
        // Falls to one when a network card turns out not to be able to.
        let most = line.state.max_gso_segments().clamp(1, MAX_BATCH);
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
