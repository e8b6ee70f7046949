//! An origin that answers as it is told, and the segments that it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, header};
use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;

/// What the origin answers to one path.
#[derive(Clone)]
pub(crate) enum Answer {
    Text(String),
    Bytes(Vec<u8>),
    Status(u16),
    /// Promises the length of these bytes, sends half of them, and breaks off.
    Half(Vec<u8>),
    Html,
    Redirect(String),
    /// With a validator: 304 to whoever has it.
    Tagged(String),
}

#[derive(Clone, Default)]
pub(crate) struct Origin {
    answers: Arc<Mutex<HashMap<String, Vec<Answer>>>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    pub(crate) not_modified: Arc<Mutex<usize>>,
}

impl Origin {
    /// Serves on loopback; returns the address.
    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(Self::answer)
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// Answers from now on; of several answers each is given once, the last for ever.
    pub(crate) fn set(&self, path: &str, answers: &[Answer]) {
        let mut map = self.answers.lock().unwrap();
        map.insert(path.into(), answers.to_vec());
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    async fn answer(State(origin): State<Self>, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        *origin
            .asked
            .lock()
            .unwrap()
            .entry(path.clone())
            .or_default() += 1;
        let answer = {
            let mut answers = origin.answers.lock().unwrap();
            match answers.get_mut(&path) {
                Some(list) if list.len() > 1 => list.remove(0),
                Some(list) => list[0].clone(),
                None => Answer::Status(404),
            }
        };
        let respond = Response::builder();
        match answer {
            Answer::Text(text) => Response::new(text.into()),
            Answer::Bytes(bytes) => Response::new(bytes.into()),
            Answer::Status(code) => respond.status(code).body(Body::empty()).unwrap(),
            Answer::Html => respond
                .header(header::CONTENT_TYPE, "text/html")
                .body("<html>sign in</html>".into())
                .unwrap(),
            Answer::Redirect(to) => respond
                .status(StatusCode::FOUND)
                .header(header::LOCATION, to)
                .body(Body::empty())
                .unwrap(),
            Answer::Half(bytes) => {
                let half = bytes[..bytes.len() / 2].to_vec();
                let broken = stream::once(async {
                    // Lets the first half go out.
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("pulled the plug"))
                });
                let body = stream::once(async { Ok(half) }).chain(broken);
                respond
                    .header(header::CONTENT_LENGTH, bytes.len())
                    .body(Body::from_stream(body))
                    .unwrap()
            }
            Answer::Tagged(text) => {
                if request.headers().contains_key(header::IF_NONE_MATCH) {
                    *origin.not_modified.lock().unwrap() += 1;
                    return respond.status(304).body(Body::empty()).unwrap();
                }
                respond
                    .header(header::ETAG, "\"v1\"")
                    .body(text.into())
                    .unwrap()
            }
        }
    }
}

pub(crate) fn playlist(first: u64, count: u64) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for number in first..first + count {
        text += &format!("#EXTINF:1,\nseg_{number}.ts?token=a%2Fb\n");
    }
    text
}

pub(crate) fn named(number: u64) -> String {
    format!("seg_{number}.ts?token=a%2Fb")
}

/// Bytes that differ by segment and by place.
pub(crate) fn media(number: u64) -> Vec<u8> {
    let length = 300_000 + number as usize;
    (0..length)
        .map(|i| (i as u64 * 31 + number) as u8)
        .collect()
}

pub(crate) fn set_segments(origin: &Origin, numbers: std::ops::Range<u64>) {
    for number in numbers {
        origin.set(
            &format!("/news/seg_{number}.ts"),
            &[Answer::Bytes(media(number))],
        );
    }
}
