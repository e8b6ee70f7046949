//! One segment from the origin, over as many connections as it takes: what breaks off or falls
//! silent is taken up where it stopped.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use tokio::time::{sleep, timeout};
use url::Url;

use super::client::{MAX_SEGMENT, OriginClient, OriginError, before_body};

/// For a whole segment, so that one that trickles does not hold its place for ever.
const SEGMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the first connection has the field to itself. An origin answers within some hundred
/// milliseconds; a connection that is stuck in a lost packet does not for a second or more, and a
/// viewer's REQUEST is held for 1.6 s.
const HEDGE_AFTER: Duration = Duration::from_millis(800);

/// Silence inside a body after which another connection takes over: a new one costs two or three
/// round trips, TCP's own recovery on a bad link up to several seconds.
const SILENCE: Duration = Duration::from_secs(2);

/// How often a body is taken up again.
const MAX_RESUMES: u32 = 3;

/// Before a body that broke off is asked for again: an origin that restarts needs a moment.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// A segment that is arriving.
#[derive(Debug)]
pub struct SegmentBody {
    client: OriginClient,
    url: Url,
    response: Response,
    length: Option<u64>,
    received: u64,
    /// CRC-32C of what was received, against which a second copy is held.
    crc32c: u32,
    /// What the origin says that the copy is, if that can stand in `If-Range`.
    validator: Option<HeaderValue>,
    resumes: u32,
    /// Came with the end of what was skipped.
    new: Bytes,
}

impl OriginClient {
    /// Asks for a segment; its bytes follow from [`SegmentBody::next`].
    ///
    /// # Errors
    /// [`OriginError`], also for a length beyond [`MAX_SEGMENT`].
    pub async fn segment(&self, url: &Url) -> Result<SegmentBody, OriginError> {
        let response = self.first_to_answer(url).await?;
        if response.status() != StatusCode::OK {
            return Err(OriginError::Status(response.status().as_u16()));
        }
        must_be_media(&response)?;
        let length = response.content_length();
        if length.is_some_and(|length| length > MAX_SEGMENT) {
            return Err(OriginError::TooLarge { limit: MAX_SEGMENT });
        }
        Ok(SegmentBody {
            client: self.clone(),
            url: url.clone(),
            validator: validator(response.headers()),
            response,
            length,
            received: 0,
            crc32c: 0,
            resumes: 0,
            new: Bytes::new(),
        })
    }

    /// Asks, and asks again over a connection of its own if there is no answer soon; takes the
    /// first good one.
    async fn first_to_answer(&self, url: &Url) -> Result<Response, OriginError> {
        let first = ask(self.pooled(), url, HeaderMap::new());
        tokio::pin!(first);
        if let Ok(answer) = timeout(HEDGE_AFTER, &mut first).await {
            return answer;
        }
        let second = ask(self.fresh(), url, HeaderMap::new());
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
    /// `Content-Length`, if the origin says.
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
            let error = match timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => return self.take(bytes).map(Some),
                Ok(Ok(None)) if self.length.is_none_or(|length| length == self.received) => {
                    return Ok(None);
                }
                Err(_) => OriginError::Timeout,
                Ok(Err(error)) if error.is_timeout() => OriginError::Timeout,
                Ok(_) => OriginError::Truncated {
                    got: self.received,
                    expected: self.length,
                },
            };
            self.resume(error).await?;
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<Bytes, OriginError> {
        self.received += bytes.len() as u64;
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
            match self.rest().await {
                Ok(()) => return Ok(()),
                Err(OriginError::Changed) => return Err(OriginError::Changed),
                Err(again) => log::debug!("{}: taken up again: {again}", self.url.path()),
            }
        }
    }

    /// Asks for what is missing, by range where the origin says what its copy is; else for all of
    /// it, of which what is here already has to be the same.
    async fn rest(&mut self) -> Result<(), OriginError> {
        let mut headers = HeaderMap::new();
        if self.received > 0
            && let Some(validator) = &self.validator
        {
            headers.insert(RANGE, range_from(self.received)?);
            headers.insert(IF_RANGE, validator.clone());
        }
        let response = ask(self.client.fresh(), &self.url, headers).await?;
        must_be_media(&response)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (start, total) =
                    content_range(response.headers()).ok_or(OriginError::Changed)?;
                let same = self.length.is_none_or(|length| length == total);
                if start != self.received || !same {
                    return Err(OriginError::Changed);
                }
                self.length = Some(total);
                self.response = response;
                Ok(())
            }
            StatusCode::OK => self.skip_what_is_here(response).await,
            other => Err(OriginError::Status(other.as_u16())),
        }
    }

    async fn skip_what_is_here(&mut self, mut response: Response) -> Result<(), OriginError> {
        let length = response.content_length();
        if length.is_some() && self.length.is_some() && length != self.length {
            return Err(OriginError::Changed);
        }
        let (mut skipped, mut crc32c, mut new) = (0, 0, Bytes::new());
        while skipped < self.received {
            let Ok(Ok(Some(mut bytes))) = timeout(SILENCE, response.chunk()).await else {
                return Err(OriginError::Truncated {
                    got: skipped,
                    expected: length,
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
    match response.status().is_success() && kind.starts_with("text/html") {
        true => Err(OriginError::NotMedia("an HTML page".into())),
        false => Ok(()),
    }
}

/// What `If-Range` may hold (RFC 9110 section 13.1.5): a strong entity tag, or else a date.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = |tag: &&HeaderValue| !tag.as_bytes().starts_with(b"W/");
    let tag = headers.get(ETAG).filter(strong);
    tag.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

fn range_from(start: u64) -> Result<HeaderValue, OriginError> {
    HeaderValue::try_from(format!("bytes={start}-"))
        .map_err(|error| OriginError::Other(error.to_string()))
}

/// Where the part starts and how long the whole is, if it goes to the end: `bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, total) = (
        start.parse().ok()?,
        end.parse::<u64>().ok()?,
        total.parse().ok()?,
    );
    (end.checked_add(1) == Some(total)).then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: reqwest::header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_part_is_taken_if_it_goes_to_the_end() {
        for (text, read) in [
            ("bytes 5-9/10", Some((5, 10))),
            ("bytes 5-8/10", None),
            ("bytes 5-9/*", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("bytes 0-18446744073709551615/10", None),
        ] {
            assert_eq!(content_range(&headers(CONTENT_RANGE, text)), read, "{text}");
        }
    }

    #[test]
    fn a_weak_tag_is_no_validator_of_bytes() {
        assert_eq!(validator(&headers(ETAG, "W/\"1\"")), None);
        assert!(validator(&headers(ETAG, "\"1\"")).is_some());
        let date = "Mon, 23 Nov 2026 12:00:00 GMT";
        assert!(validator(&headers(LAST_MODIFIED, date)).is_some());
    }
}
