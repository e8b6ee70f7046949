//! The sockets of the port, by real datagrams on the loopback interface.

use std::time::Duration;

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
    socket.lines[0].io.writable().await.unwrap();
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
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, socket.port()));
        socket.queue(Datagram { from, to, bytes });
    }
    socket.lines[0].io.writable().await.unwrap();
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
            let ready = tokio::time::timeout(Duration::from_millis(1), socket.readable());
            if ready.await.is_ok() {
                while socket.read(|_| *heard += 1) {}
            }
        }
    }
    assert!(heard.iter().all(|heard| *heard > 0), "{heard:?}");
}
