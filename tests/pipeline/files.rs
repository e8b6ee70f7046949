//! An origin of files, with byte ranges, compression and redirects; and what lies on it.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::net::TcpListener;

/// Files, and who asked for what.
#[derive(Clone, Default)]
pub(crate) struct Origin {
    pub(crate) files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    /// Path, query and range of every request.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// Answers a request for a range with all there is, as some servers do.
    pub(crate) knows_no_ranges: bool,
    /// Sends everything in gzip.
    pub(crate) compresses: bool,
    /// From path to path.
    pub(crate) redirects: Arc<Mutex<HashMap<String, String>>>,
}

impl Origin {
    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(Self::answer)
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    pub(crate) fn set(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.files.lock().unwrap().insert(path.into(), bytes.into());
    }

    pub(crate) fn asked(&self, what: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|other| *other == what).count()
    }

    async fn answer(State(origin): State<Self>, request: Request<Body>) -> Response<Body> {
        let range = request.headers().get(header::RANGE);
        let range = range.map(|range| range.to_str().unwrap().to_owned());
        let mut asked = request.uri().to_string();
        if let Some(range) = &range {
            asked += " ";
            asked += range;
        }
        origin.asked.lock().unwrap().push(asked);
        let redirect = origin
            .redirects
            .lock()
            .unwrap()
            .get(request.uri().path())
            .cloned();
        if let Some(to) = redirect {
            let response = Response::builder().status(302).header(header::LOCATION, to);
            return response.body(Body::empty()).unwrap();
        }
        let found = origin
            .files
            .lock()
            .unwrap()
            .get(request.uri().path())
            .cloned();
        let Some(bytes) = found else {
            return Response::builder().status(404).body(Body::empty()).unwrap();
        };
        if origin.compresses {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(&bytes).unwrap();
            let response = Response::builder().header(header::CONTENT_ENCODING, "gzip");
            return response.body(encoder.finish().unwrap().into()).unwrap();
        }
        match range.filter(|_| !origin.knows_no_ranges) {
            None => Response::new(bytes.into()),
            Some(range) => {
                let (start, end) = range
                    .strip_prefix("bytes=")
                    .unwrap()
                    .split_once('-')
                    .unwrap();
                let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
                let total = bytes.len();
                Response::builder()
                    .status(206)
                    .header(
                        header::CONTENT_RANGE,
                        format!("bytes {start}-{end}/{total}"),
                    )
                    .body(bytes[start..=end].to_vec().into())
                    .unwrap()
            }
        }
    }
}

/// Bytes that differ by place.
pub(crate) fn bytes(range: Range<usize>) -> Vec<u8> {
    range.map(|at| (at * 31 + at / 256) as u8).collect()
}

/// A playlist from `first` on of these lines.
pub(crate) fn list(first: u64, lines: &[&str]) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for line in lines {
        if !line.starts_with('#') {
            text += "#EXTINF:1,\n";
        }
        text += line;
        text += "\n";
    }
    text
}
