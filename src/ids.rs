//! The names of things. If two values can be swapped by mistake, they are two types.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// What viewers send as `channel` in `enter`: the absolute URL of the playlist, without its
    /// query (protocol.md section 3), unless the configuration says otherwise.
    ChannelId
}

text_id! {
    /// The short name of a channel in metrics, pages, directories and `/live/<name>/`.
    ChannelName
}

text_id! {
    /// The URI of a segment exactly as its playlist writes it, query included. Within a channel
    /// this is how peers name a segment (protocol.md section 3, `REQUEST.url`).
    SegmentUri
}

text_id! {
    /// A box, for as long as its process runs: what the boxes of one operator know each other by
    /// ([`crate::sibling`]).
    BoxId
}

/// Position of a segment in its media playlist (RFC 8216 section 3): the first one has the value
/// of `EXT-X-MEDIA-SEQUENCE`, each next one is greater by one. `sn` on the data channel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct MediaSequence(pub u64);

impl fmt::Display for MediaSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which list of a channel something belongs to: the place of the media playlist in the order in
/// which the box follows them; a channel that is a single media playlist has only 0. The
/// initialization sections of a playlist are a list of their own beside its segments
/// ([`Self::sections`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RenditionIndex(pub u16);

impl RenditionIndex {
    /// A channel follows far fewer playlists than half of what the number holds.
    const SECTIONS: u16 = 1 << 15;

    /// The list of this playlist's initialization sections (`EXT-X-MAP`). They have no numbers of
    /// their own: each counts as the first segment that was seen to need it.
    pub fn sections(self) -> Self {
        Self(self.0 | Self::SECTIONS)
    }

    /// Whether this is a list of initialization sections.
    pub fn is_sections(self) -> bool {
        self.0 & Self::SECTIONS != 0
    }

    /// The list of the same playlist's segments.
    pub fn playlist(self) -> Self {
        Self(self.0 & !Self::SECTIONS)
    }
}

/// Where the bytes of something that a playlist lists are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// An `http` or `https` address.
    pub url: Url,
    /// Which part of what is there; `None`: all of it.
    pub range: Option<ByteRange>,
}

/// A part of a resource (`EXT-X-BYTERANGE`, RFC 8216 section 4.3.2.2), never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    length: u64,
}

impl ByteRange {
    /// `length` bytes from `start` on; `None` if that is nothing, or ends beyond what can be counted.
    pub fn new(start: u64, length: u64) -> Option<Self> {
        let ends = start.checked_add(length).is_some();
        (length > 0 && ends).then_some(Self { start, length })
    }

    /// The first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// How many bytes.
    pub fn length(self) -> u64 {
        self.length
    }

    /// The first byte after it.
    pub fn end(self) -> u64 {
        self.start + self.length
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}", self.start, self.end() - 1)
    }
}

/// A peer as the signalling server named it. Servers in the field use short strings, UUIDs,
/// strings of 300 characters, and JSON integers (protocol.md section 3); whatever came is sent
/// back in the same JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PeerId {
    /// An id that came as a JSON number.
    Number(i64),
    /// An id that came as a JSON string.
    Text(Arc<str>),
}

impl From<&str> for PeerId {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for PeerId {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// An address as others may have it: what the pages show is for the whole LAN, and browsers refuse to load
/// one with a password anyway.
pub fn without_password(url: &Url) -> Url {
    let mut bare = url.clone();
    // Only fails for what has no host, and then there is no password.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare
}

/// An address as logs and pages may show it: a query may hold a token, and the authority a password.
pub fn without_secrets(url: &Url) -> String {
    let mut bare = without_password(url);
    bare.set_query(None);
    bare.set_fragment(None);
    bare.into()
}

/// What somebody else wrote, as a log or a page may have it: control characters escaped, so that it
/// makes no line of its own, and the first 200 characters at most.
pub fn tame(text: &str) -> String {
    text.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_passwords_are_not_shown() {
        let url = Url::parse("https://me:secret@cdn/x/i.m3u8?token=1#a").unwrap();
        assert_eq!(without_secrets(&url), "https://cdn/x/i.m3u8");
    }

    #[test]
    fn what_others_write_makes_no_line_of_its_own() {
        assert_eq!(tame("a\nERROR é\u{1b}[2J"), "a\\nERROR é\\u{1b}[2J");
        assert_eq!(tame(&"é".repeat(300)), "é".repeat(200));
    }

    #[test]
    fn a_peer_id_keeps_the_json_form_it_came_in() {
        for json in ["42", "\"42\"", "\"b8a3c0de-0000-4000-8000-000000000000\""] {
            let id: PeerId = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
        }
    }
}
