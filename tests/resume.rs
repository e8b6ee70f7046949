//! A segment whose connection breaks, falls silent or never answers, from an origin that does
//! exactly what it is told, connection by connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgeseed::fetch::{OriginClient, OriginError};
use edgeseed::ids::Resource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

const BODY: &[u8] = b"the whole of a segment, forty-four bytes long";
const TAG: &str = "ETag: \"v1\"\r\n";

/// What becomes of one connection, once its request has come.
#[derive(Clone)]
enum Then {
    /// This is sent, and the connection closed.
    Send(String),
    /// This is sent, and then nothing.
    SendAndStall(String),
}

struct Origin {
    url: Url,
    requests: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Origin {
    /// The nth connection is dealt with as the nth of `script` says; there are no more.
    async fn start(script: &[Then]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/seg.ts", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (script, heard) = (script.to_vec(), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            for then in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                heard.lock().unwrap().push(request);
                let (text, stalls) = match then {
                    Then::Send(text) => (text, false),
                    Then::SendAndStall(text) => (text, true),
                };
                stream.write_all(text.as_bytes()).await.unwrap();
                if stalls {
                    open.push(stream);
                }
            }
            drop(listener);
            std::future::pending::<()>().await;
        });
        Self {
            url: url.parse().unwrap(),
            requests,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    async fn load(&self) -> Result<Vec<u8>, OriginError> {
        let resource = Resource {
            url: self.url.clone(),
            range: None,
        };
        let mut body = OriginClient::new().unwrap().segment(&resource).await?;
        let mut bytes = Vec::new();
        while let Some(more) = body.next().await? {
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap().to_lowercase()
}

/// 200 with the length of the whole, and the first `sent` bytes of `body`.
fn whole(more: &str, body: &[u8], sent: usize) -> String {
    let (len, text) = (body.len(), std::str::from_utf8(&body[..sent]).unwrap());
    format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n{more}\r\n{text}")
}

/// 206 from `start` to the end.
fn rest(start: usize) -> String {
    let (len, text) = (BODY.len(), std::str::from_utf8(&BODY[start..]).unwrap());
    format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{len}\r\n\r\n{text}",
        len - start,
        len - 1,
    )
}

#[tokio::test]
async fn what_breaks_off_is_taken_up_where_it_stopped() {
    let script = [Then::Send(whole(TAG, BODY, 20)), Then::Send(rest(20))];
    let origin = Origin::start(&script).await;
    assert_eq!(origin.load().await.unwrap(), BODY);
    let second = &origin.requests()[1];
    assert!(second.contains("\r\nrange: bytes=20-\r\n"), "{second}");
    assert!(second.contains("\r\nif-range: \"v1\"\r\n"), "{second}");
}

#[tokio::test]
async fn without_a_validator_the_whole_is_loaded_again_and_has_to_begin_the_same() {
    let script = [
        Then::Send(whole("", BODY, 20)),
        Then::Send(whole("", BODY, BODY.len())),
    ];
    let origin = Origin::start(&script).await;
    assert_eq!(origin.load().await.unwrap(), BODY);
    assert!(!origin.requests()[1].contains("range:"));
}

#[tokio::test]
async fn other_bytes_under_the_same_name_are_not_patched_together() {
    let mut other = BODY.to_vec();
    other[3] = b'!';
    let script = [
        Then::Send(whole(TAG, BODY, 20)),
        Then::Send(whole("ETag: \"v2\"\r\n", &other, other.len())),
    ];
    let origin = Origin::start(&script).await;
    assert_eq!(origin.load().await, Err(OriginError::Changed));
}

#[tokio::test]
async fn a_part_that_is_not_the_one_asked_for_is_not_taken() {
    let script = [Then::Send(whole(TAG, BODY, 20)), Then::Send(rest(19))];
    let origin = Origin::start(&script).await;
    assert_eq!(origin.load().await, Err(OriginError::Changed));
}

#[tokio::test]
async fn it_may_break_off_again_and_again_but_not_for_ever() {
    let part = |start: usize, end: usize| {
        Then::Send(rest(start)[..rest(start).len() - BODY.len() + end].to_owned())
    };
    let twice = [
        Then::Send(whole(TAG, BODY, 10)),
        part(10, 20),
        part(20, 30),
        Then::Send(rest(30)),
    ];
    let origin = Origin::start(&twice).await;
    assert_eq!(origin.load().await.unwrap(), BODY);

    let for_ever = [
        Then::Send(whole(TAG, BODY, 10)),
        part(10, 11),
        part(11, 12),
        part(12, 13),
        Then::Send(rest(13)),
    ];
    let origin = Origin::start(&for_ever).await;
    let error = origin.load().await.unwrap_err();
    assert!(
        matches!(error, OriginError::Truncated { got: 13, .. }),
        "{error}"
    );
    assert_eq!(origin.requests().len(), 4);
}

#[tokio::test]
async fn a_body_that_falls_silent_is_taken_up_over_another_connection() {
    let script = [
        Then::SendAndStall(whole(TAG, BODY, 20)),
        Then::Send(rest(20)),
    ];
    let origin = Origin::start(&script).await;
    let start = tokio::time::Instant::now();
    assert_eq!(origin.load().await.unwrap(), BODY);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_connection_that_does_not_answer_is_not_waited_for() {
    let script = [
        Then::SendAndStall(String::new()),
        Then::Send(whole(TAG, BODY, BODY.len())),
    ];
    let origin = Origin::start(&script).await;
    assert_eq!(origin.load().await.unwrap(), BODY);
}
