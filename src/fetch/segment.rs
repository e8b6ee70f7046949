//! One segment from the origin, over as many connections as it takes: what breaks off or falls
//! silent is taken up where it stopped.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::client::{MAX_SEGMENT, OriginClient, OriginError, before_body};
use crate::ids::Resource;

/// For a whole segment, so that one that trickles does not hold its place for ever.
const SEGMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the first connection has the field to itself. An origin answers within some hundred
/// milliseconds; a connection that is stuck in a lost packet does not for a second or more, and a
/// viewer's REQUEST is held for 1.6 s.
const HEDGE_AFTER: Duration = Duration::from_millis(800);

/// Silence inside a body after which another connection takes over: a new one costs two or three
/// round trips, TCP's own recovery on a bad link up to several seconds. Short enough that the rest
/// can still come while a viewer's REQUEST is held (1.6 s).
const SILENCE: Duration = Duration::from_secs(1);

/// Of a connection that brings less than so many bytes in so long a time the same is true: it would
/// hold its place until all of the window has gone by. No stream is as slow as that, 1 KiB/s.
const TRICKLE: (u64, Duration) = (4 << 10, Duration::from_secs(4));

/// How often a body is taken up again before so much more of it has come.
pub(super) const MAX_RESUMES: u32 = 3;
const PROGRESS: u64 = 64 << 10;

/// Before a body that broke off is asked for again: an origin that restarts needs a moment.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

const PAGE: &str = "an HTML page";
/// What origins and sign-in portals send in place of a segment, with 200. (`text/plain` is what some
/// servers call any file.)
const NEVER_MEDIA: [(&str, &str); 3] = [
    ("text/html", PAGE),
    ("application/xhtml+xml", PAGE),
    ("application/json", "JSON"),
];

/// A segment that is arriving.
#[derive(Debug)]
pub struct SegmentBody {
    client: OriginClient,
    resource: Resource,
    response: Response,
    length: Option<u64>,
    received: u64,
    /// CRC-32C of what was received, against which a second copy is held.
    crc32c: u32,
    /// What the origin says that the copy is, if that can stand in `If-Range`.
    validator: Option<HeaderValue>,
    resumes: u32,
    /// What had come when it was last taken up again.
    resumed_at: u64,
    /// Bytes that came of late, and the time that they were waited for.
    lately: (u64, Duration),
    /// Came with the end of what was skipped.
    new: Bytes,
}

impl OriginClient {
    /// Asks for a segment; its bytes follow from [`SegmentBody::next`].
    ///
    /// # Errors
    /// [`OriginError`], also for a length beyond [`MAX_SEGMENT`], and for anything but the part that
    /// was asked for.
    pub async fn segment(&self, resource: &Resource) -> Result<SegmentBody, OriginError> {
        let mut headers = HeaderMap::new();
        if resource.range.is_some() {
            headers.insert(RANGE, range_from(resource, 0)?);
        }
        let response = self.first_to_answer(&resource.url, headers).await?;
        must_be_media(&response)?;
        let length = match (resource.range, response.status()) {
            (None, StatusCode::OK) => response.content_length(),
            (Some(range), StatusCode::PARTIAL_CONTENT) => {
                must_be_part(response.headers(), resource, 0)?;
                Some(range.length())
            }
            (Some(_), StatusCode::OK) => {
                return Err(OriginError::NotThatPart("all of it".into()));
            }
            (_, other) => return Err(OriginError::Status(other.as_u16())),
        };
        if length.is_some_and(|length| length > MAX_SEGMENT) {
            return Err(OriginError::TooLarge { limit: MAX_SEGMENT });
        }
        Ok(SegmentBody {
            client: self.clone(),
            resource: resource.clone(),
            // A body without a length may have been compressed, and a part would be of that form.
            validator: length.and_then(|_| validator(response.headers())),
            response,
            length,
            received: 0,
            crc32c: 0,
            resumes: 0,
            resumed_at: 0,
            lately: (0, Duration::ZERO),
            new: Bytes::new(),
        })
    }

    /// Asks, and asks again over a connection of its own if there is no answer soon; takes the
    /// first good one.
    async fn first_to_answer(
        &self,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, OriginError> {
        let first = ask(self.pooled(), url, headers.clone());
        tokio::pin!(first);
        if let Ok(answer) = timeout(HEDGE_AFTER, &mut first).await {
            return answer;
        }
        let second = ask(self.fresh(), url, headers);
        tokio::pin!(second);
        tokio::select! {
            answer = &mut first => match answer {
                Ok(response) => Ok(response),
                Err(_) => second.await,
            },
            answer = &mut second => match answer {
                Ok(response) => Ok(response),
                Err(_) => first.await,
            },
        }
    }
}

impl SegmentBody {
    /// How many bytes it has, if the origin says.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next bytes; `None` once the segment is whole.
    ///
    /// # Errors
    /// [`OriginError`] when neither this connection nor another one brings the rest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        loop {
            if !self.new.is_empty() {
                let new = std::mem::take(&mut self.new);
                return self.take(new).map(Some);
            }
            let since = Instant::now();
            let chunk = timeout(SILENCE, self.response.chunk()).await;
            self.lately.1 += since.elapsed();
            let error = match chunk {
                // These bytes come again.
                Ok(Ok(Some(bytes))) if self.trickles(&bytes) => self.stalled(),
                Ok(Ok(Some(bytes))) => return self.take(bytes).map(Some),
                Ok(Ok(None)) if self.length.is_none_or(|length| length == self.received) => {
                    return Ok(None);
                }
                Err(_) => self.stalled(),
                Ok(Err(error)) if error.is_timeout() => self.stalled(),
                Ok(_) => OriginError::Truncated {
                    got: self.received,
                    expected: self.length,
                },
            };
            self.resume(error).await?;
        }
    }

    /// Whether what comes is too little for the time that it takes.
    fn trickles(&mut self, bytes: &Bytes) -> bool {
        self.lately.0 += bytes.len() as u64;
        let (came, waited) = self.lately;
        if waited < TRICKLE.1 {
            return false;
        }
        self.lately = (0, Duration::ZERO);
        came < TRICKLE.0
    }

    fn stalled(&self) -> OriginError {
        OriginError::Stalled {
            got: self.received,
            expected: self.length,
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<Bytes, OriginError> {
        if self.received == 0 && is_page(&bytes) {
            return Err(OriginError::NotMedia(PAGE.into()));
        }
        self.received += bytes.len() as u64;
        if self.received - self.resumed_at >= PROGRESS {
            self.resumes = 0;
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
        match self.received > MAX_SEGMENT {
            true => Err(OriginError::TooLarge { limit: MAX_SEGMENT }),
            false => Ok(bytes),
        }
    }

    /// Has the rest sent over another connection. Gives `error` back when that cannot be.
    async fn resume(&mut self, error: OriginError) -> Result<(), OriginError> {
        loop {
            if self.resumes == MAX_RESUMES {
                return Err(error);
            }
            sleep(RESUME_PAUSE * self.resumes).await;
            self.resumes += 1;
            self.resumed_at = self.received;
            match self.rest().await {
                Ok(()) => return Ok(()),
                Err(OriginError::Changed) => return Err(OriginError::Changed),
                Err(again) => log::debug!("{}: taken up again: {again}", self.resource.url.path()),
            }
        }
    }

    /// Asks for what is missing, by range where the origin says what its copy is; else for all of
    /// it, of which what is here already has to be the same.
    async fn rest(&mut self) -> Result<(), OriginError> {
        let validator = self.validator.clone().filter(|_| self.received > 0);
        let skipped = validator.as_ref().map_or(0, |_| self.received);
        let mut headers = HeaderMap::new();
        if skipped > 0 || self.resource.range.is_some() {
            headers.insert(RANGE, range_from(&self.resource, skipped)?);
        }
        if let Some(validator) = validator {
            headers.insert(IF_RANGE, validator);
        }
        let response = ask(self.client.fresh(), &self.resource.url, headers).await?;
        must_be_media(&response)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let total = must_be_part(response.headers(), &self.resource, skipped)
                    .map_err(|_| OriginError::Changed)?;
                if self.length.is_some_and(|length| length != total) {
                    return Err(OriginError::Changed);
                }
                self.length = Some(total);
                match skipped {
                    0 => self.skip_what_is_here(response).await,
                    _ => {
                        self.response = response;
                        Ok(())
                    }
                }
            }
            // What `If-Range` named is there no longer.
            StatusCode::OK if self.resource.range.is_some() => Err(OriginError::Changed),
            StatusCode::OK => {
                let length = response.content_length();
                if length.is_some() && self.length.is_some() && length != self.length {
                    return Err(OriginError::Changed);
                }
                self.skip_what_is_here(response).await
            }
            other => Err(OriginError::Status(other.as_u16())),
        }
    }

    async fn skip_what_is_here(&mut self, mut response: Response) -> Result<(), OriginError> {
        let (mut skipped, mut crc32c, mut new) = (0, 0, Bytes::new());
        while skipped < self.received {
            let Ok(Ok(Some(mut bytes))) = timeout(SILENCE, response.chunk()).await else {
                return Err(OriginError::Truncated {
                    got: skipped,
                    expected: self.length,
                });
            };
            let here = usize::try_from(self.received - skipped).unwrap_or(usize::MAX);
            new = bytes.split_off(bytes.len().min(here));
            crc32c = crc32c::crc32c_append(crc32c, &bytes);
            skipped += bytes.len() as u64;
        }
        if crc32c != self.crc32c {
            return Err(OriginError::Changed);
        }
        self.new = new;
        self.response = response;
        Ok(())
    }
}

async fn ask(client: &Client, url: &Url, mut headers: HeaderMap) -> Result<Response, OriginError> {
    // Media does not compress, and only the plain length can be checked.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let request = client.get(url.clone()).headers(headers);
    let response = request.timeout(SEGMENT_TIMEOUT).send().await;
    response.map_err(|error| before_body(&error, url))
}

fn must_be_media(response: &Response) -> Result<(), OriginError> {
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let mut never = NEVER_MEDIA.iter();
    match never.find(|(never, _)| kind.eq_ignore_ascii_case(never)) {
        Some((_, what)) if response.status().is_success() => {
            Err(OriginError::NotMedia((*what).into()))
        }
        _ => Ok(()),
    }
}

/// Whether a body begins as a page does, whatever its head calls it. No media does.
fn is_page(beginning: &[u8]) -> bool {
    let beginning = beginning.trim_ascii_start();
    let is_like = |tag: &[u8]| {
        let found = beginning.get(..tag.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(tag))
    };
    is_like(b"<!doctype html") || is_like(b"<html")
}

/// What `If-Range` may hold (RFC 9110 section 13.1.5): a strong entity tag, or else a date.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = |tag: &&HeaderValue| !tag.as_bytes().starts_with(b"W/");
    let tag = headers.get(ETAG).filter(strong);
    tag.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

/// What follows the first `skipped` bytes of it (RFC 9110 section 14.1.2: both ends are inclusive).
fn range_from(resource: &Resource, skipped: u64) -> Result<HeaderValue, OriginError> {
    let range = match resource.range {
        Some(range) => format!("bytes={}-{}", range.start() + skipped, range.end() - 1),
        None => format!("bytes={skipped}-"),
    };
    HeaderValue::try_from(range).map_err(|error| OriginError::Other(error.to_string()))
}

/// `Content-Range` has to say what was asked for (RFC 9110 section 14.4): a server may answer with
/// another part. Gives how many bytes the segment has.
fn must_be_part(
    headers: &HeaderMap,
    resource: &Resource,
    skipped: u64,
) -> Result<u64, OriginError> {
    let text = headers.get(CONTENT_RANGE);
    let text = text.and_then(|text| text.to_str().ok());
    let text = text.unwrap_or("a part of unknown place");
    let part = content_range(text);
    let expected = match (resource.range, part) {
        (Some(range), Some(part)) => {
            let is_it = part.start == range.start() + skipped && part.end == range.end();
            is_it.then(|| range.length())
        }
        (None, Some(part)) => {
            let is_it = part.start == skipped && part.total == Some(part.end);
            is_it.then_some(part.end)
        }
        (_, None) => None,
    };
    expected.ok_or_else(|| OriginError::NotThatPart(text.into()))
}

/// A part of a resource, in bytes; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    end: u64,
    total: Option<u64>,
}

/// Reads `bytes 5-9/10`.
fn content_range(text: &str) -> Option<Part> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.trim().split_once('-')?;
    Some(Part {
        start: start.parse().ok()?,
        end: last.parse::<u64>().ok()?.checked_add(1)?,
        total: total.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ByteRange;

    fn headers(name: reqwest::header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_part_is_taken_if_it_is_the_one_and_goes_to_the_end() {
        let whole = Resource {
            url: "http://o/seg.ts".parse().unwrap(),
            range: None,
        };
        for (text, taken) in [
            ("bytes 5-9/10", true),
            ("bytes 4-9/10", false),
            ("bytes 5-8/10", false),
            ("bytes 5-9/*", false),
            ("bytes */10", false),
            ("items 5-9/10", false),
            ("bytes 5-18446744073709551615/10", false),
        ] {
            let part = must_be_part(&headers(CONTENT_RANGE, text), &whole, 5);
            assert_eq!(part.is_ok(), taken, "{text}");
        }
    }

    #[test]
    fn of_a_byte_range_exactly_that_part_is_taken() {
        let resource = Resource {
            url: "http://o/all.ts".parse().unwrap(),
            range: ByteRange::new(5, 5),
        };
        assert_eq!(range_from(&resource, 0).unwrap(), "bytes=5-9");
        assert_eq!(range_from(&resource, 2).unwrap(), "bytes=7-9");
        for (text, skipped, taken) in [
            ("bytes 5-9/100", 0, true),
            ("bytes 5-9/*", 0, true),
            ("bytes 7-9/100", 2, true),
            ("bytes 5-9/100", 2, false),
            ("bytes 5-8/100", 0, false),
            ("bytes 0-99/100", 0, false),
        ] {
            let part = must_be_part(&headers(CONTENT_RANGE, text), &resource, skipped);
            assert_eq!(part.is_ok(), taken, "{text}");
        }
        assert!(must_be_part(&HeaderMap::new(), &resource, 0).is_err());
    }

    #[test]
    fn a_page_is_known_by_how_it_begins() {
        assert!(is_page(b"\r\n <!DocType HTML><title>"));
        assert!(is_page(b"<HTML lang=en>"));
        assert!(!is_page(b"G@\0\x10") && !is_page(b"WEBVTT") && !is_page(b"<tt xmlns="));
    }

    #[test]
    fn a_weak_tag_is_no_validator_of_bytes() {
        assert_eq!(validator(&headers(ETAG, "W/\"1\"")), None);
        assert!(validator(&headers(ETAG, "\"1\"")).is_some());
        let date = "Mon, 23 Nov 2026 12:00:00 GMT";
        assert!(validator(&headers(LAST_MODIFIED, date)).is_some());
    }
}
