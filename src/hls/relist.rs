//! A playlist written anew for who loads it from the box: what the box has is named as it is here, and
//! everything else by its full address at the origin.
//!
//! Line by line, so that what concerns players and not us (keys, dates, advertisements) stays as it is.
//! What only its own server can keep is left out: low-latency parts, blocking reloads, steering.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::str;
use std::sync::LazyLock;

use quick_m3u8::config::{ParsingOptions, ParsingOptionsBuilder};
use quick_m3u8::tag::{AttributeValue, UnknownTag};
use quick_m3u8::{HlsLine, Reader};
use url::Url;

use super::{MediaPlaylist, MediaSegment, Multivariant, Variables};
use crate::ids::without_password;

/// Each tag as its name and its text.
static OPTIONS: LazyLock<ParsingOptions> = LazyLock::new(|| ParsingOptionsBuilder::new().build());

/// Promises of the origin's server, which this one does not keep (draft-pantos-hls-rfc8216bis sections
/// 4.4.3.7, 4.4.3.8, 4.4.4.9, 4.4.5 and 4.4.6.6).
const LEFT_OUT: [&str; 7] = [
    "-X-CONTENT-STEERING",
    "-X-PART",
    "-X-PART-INF",
    "-X-PRELOAD-HINT",
    "-X-RENDITION-REPORT",
    "-X-SERVER-CONTROL",
    "-X-SKIP",
];

/// What a media playlist lists, on the way to its name here.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// A segment.
    Segment(&'a MediaSegment),
    /// The initialization section of this segment, which is the first that needs it.
    SectionOf(&'a MediaSegment),
}

/// The text of a playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// As it came, or as much of it as was read.
    pub text: String,
    /// What its addresses are relative to: its own.
    pub base: Url,
}

/// What was read as `media`; `None` if it takes more than `limit` bytes, for variables may stand for much.
/// `local` says where something is here, relative to the address from which the result is loaded; `None`: at
/// the origin.
pub fn relist_media(
    written: &Written,
    media: &MediaPlaylist,
    limit: usize,
    local: impl Fn(Listed<'_>) -> Option<String>,
) -> Option<String> {
    let mut list = Relisted::new(&written.base, &media.variables, limit);
    let mut segments = media.segments.iter().peekable();
    let mut range = None;
    for line in lines(&written.text) {
        if !list.fits() {
            return None;
        }
        match line {
            Line::Uri(uri) => {
                let Some(segment) = segments.next() else {
                    break;
                };
                let written = range.take();
                match local(Listed::Segment(segment)) {
                    Some(name) => list.line(&name),
                    None => {
                        if let Some(range) = segment.range() {
                            let (length, start) = (range.length(), range.start());
                            list.line(&format!("#EXT-X-BYTERANGE:{length}@{start}"));
                        } else if let Some(written) = written {
                            list.tag(&written, |_| None, None);
                        }
                        list.line(&list.address(&uri));
                    }
                }
            }
            // Told with its segment: one that is here is a whole file.
            Line::Tag(tag) if tag.name() == "-X-BYTERANGE" => range = Some(tag),
            // Its variables are replaced.
            Line::Tag(tag) if tag.name() == "-X-DEFINE" => {}
            Line::Tag(tag) if tag.name() == "-X-MAP" => {
                let needs = segments.peek().filter(|segment| segment.init.is_some());
                let name = needs.and_then(|segment| local(Listed::SectionOf(segment)));
                let left_out = name.as_ref().map(|_| "BYTERANGE");
                list.tag(&tag, |_| name.clone(), left_out);
            }
            Line::Tag(tag) => list.tag(&tag, |_| None, None),
        }
    }
    list.fits().then_some(list.text)
}

/// The same for a multivariant playlist; `local` says under which name the media playlist at an address is here.
pub fn relist_multivariant(
    written: &Written,
    multivariant: &Multivariant,
    limit: usize,
    local: impl Fn(&Url) -> Option<String>,
) -> Option<String> {
    let mut list = Relisted::new(&written.base, &multivariant.variables, limit);
    let local = |address: &str| local(&Url::parse(address).ok()?);
    for line in lines(&written.text) {
        if !list.fits() {
            return None;
        }
        match line {
            Line::Uri(uri) => {
                let address = list.address(&uri);
                list.line(&local(&address).unwrap_or(address));
            }
            // For the media playlists that are not here; each with its value, since the address that
            // may have had it is another one now.
            Line::Tag(tag) if tag.name() == "-X-DEFINE" => {
                if let Some((name, value)) = list.defined(&tag) {
                    list.line(&format!("#EXT-X-DEFINE:NAME=\"{name}\",VALUE=\"{value}\""));
                }
            }
            Line::Tag(tag) => list.tag(&tag, local, None),
        }
    }
    list.fits().then_some(list.text)
}

enum Line<'a> {
    Tag(UnknownTag<'a>),
    Uri(Cow<'a, str>),
}

/// Tags and URIs; what has been read once can be read.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = Reader::from_str(text, OPTIONS.clone());
    std::iter::from_fn(move || {
        loop {
            match reader.read_line() {
                Ok(None) => return None,
                Ok(Some(HlsLine::UnknownTag(tag))) if !LEFT_OUT.contains(&tag.name()) => {
                    return Some(Line::Tag(tag));
                }
                Ok(Some(HlsLine::Uri(uri))) => {
                    // As `parse` counts them.
                    if !uri.trim().is_empty() {
                        return Some(Line::Uri(uri));
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
    })
}

struct Relisted<'a> {
    /// Without the password that the box may use.
    base: Url,
    variables: &'a Variables,
    limit: usize,
    text: String,
}

impl<'a> Relisted<'a> {
    fn new(base: &Url, variables: &'a Variables, limit: usize) -> Self {
        Self {
            base: without_password(base),
            variables,
            limit,
            text: String::new(),
        }
    }

    fn fits(&self) -> bool {
        self.text.len() <= self.limit
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A tag with the addresses in it made full, or those that `local` has a name for; without its
    /// attribute `left_out`.
    fn tag(
        &mut self,
        tag: &UnknownTag<'_>,
        local: impl Fn(&str) -> Option<String>,
        left_out: Option<&str>,
    ) {
        let line = str::from_utf8(tag.as_bytes()).unwrap_or_default();
        let Some(attributes) = addresses(tag) else {
            let line = self.replaced(line);
            self.line(&line);
            return;
        };
        let mut new = format!("#EXT{}", tag.name());
        let mut separator = ':';
        for (name, value) in attributes {
            if Some(name.trim()) == left_out {
                continue;
            }
            if new.len() > self.limit {
                break;
            }
            // Neither fails: all is in memory, and a line is text.
            let _ = match value {
                AttributeValue::Unquoted(value) => {
                    let value = value.try_as_utf_8().unwrap_or_default();
                    write!(new, "{separator}{name}={value}")
                }
                AttributeValue::Quoted(value) if is_address(name) => {
                    let address = self.address(value);
                    let address = local(&address).unwrap_or(address);
                    write!(new, "{separator}{name}=\"{address}\"")
                }
                AttributeValue::Quoted(value) => {
                    write!(new, "{separator}{name}=\"{}\"", self.replaced(value))
                }
            };
            separator = ',';
        }
        self.line(&new);
    }

    fn replaced<'t>(&self, text: &'t str) -> Cow<'t, str> {
        // A name that nothing defines stays: it is in nothing that we use.
        self.variables.replace(text).unwrap_or(Cow::Borrowed(text))
    }

    /// The full address; as written where there is none.
    fn address(&self, uri: &str) -> String {
        let uri = self.replaced(uri.trim());
        match self.base.join(&uri) {
            Ok(url) => url.into(),
            Err(_) => uri.into_owned(),
        }
    }

    /// The name of the variable that this defines, and what it stands for.
    fn defined(&self, tag: &UnknownTag<'_>) -> Option<(String, String)> {
        let attributes = tag.value()?.try_as_ordered_attribute_list().ok()?;
        let mut quoted = attributes
            .into_iter()
            .filter_map(|(name, value)| Some((name.trim(), value.quoted()?)));
        let names = ["NAME", "IMPORT", "QUERYPARAM"];
        let (_, name) = quoted.find(|(attribute, _)| names.contains(attribute))?;
        Some((name.to_owned(), self.variables.get(name)?.to_owned()))
    }
}

/// The attributes of a tag, in their order, if an address is among them.
fn addresses<'t>(tag: &UnknownTag<'t>) -> Option<Vec<(&'t str, AttributeValue<'t>)>> {
    let list = tag.value()?.try_as_ordered_attribute_list().ok()?;
    let found = list.iter().any(|(name, _)| is_address(name));
    found.then_some(list)
}

/// Of keys, sections, renditions and session data; of interstitials (`EXT-X-DATERANGE`).
fn is_address(attribute: &str) -> bool {
    matches!(attribute.trim(), "URI" | "X-ASSET-URI" | "X-ASSET-LIST")
}

#[cfg(test)]
mod tests {
    use super::super::{Playlist, parse};
    use super::*;

    const LIMIT: usize = 100_000;

    fn base() -> Url {
        Url::parse("https://name:word@cdn.example/live/tv/index.m3u8?token=t").unwrap()
    }

    fn written(text: &str) -> Written {
        Written {
            text: text.to_owned(),
            base: base(),
        }
    }

    fn media(text: &str) -> String {
        let Playlist::Media(media) = parse(text, &base(), &Variables::default()).unwrap() else {
            unreachable!()
        };
        let relisted = relist_media(&written(text), &media, LIMIT, |listed| match listed {
            // The first one has left the window.
            Listed::Segment(segment) => {
                let sequence = segment.sequence;
                (sequence.0 > 7).then(|| format!("0/{sequence}.ts"))
            }
            Listed::SectionOf(segment) => Some(format!("0/init-{}.mp4", segment.sequence)),
        });
        relisted.unwrap()
    }

    #[test]
    fn a_list_whose_variables_stand_for_much_is_given_up_before_it_is_large() {
        let define = format!("#EXT-X-DEFINE:NAME=\"a\",VALUE=\"{}\"\n", "x".repeat(4000));
        for tag in [
            "#EXT-X-A:{$a}\n".repeat(50_000),
            format!("#EXT-X-A:URI=\"u\"{}\n", ",B=\"{$a}\"".repeat(50_000)),
        ] {
            let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n{define}{tag}#EXTINF:6,\n1.ts\n");
            let Ok(Playlist::Media(media)) = parse(&text, &base(), &Variables::default()) else {
                unreachable!()
            };
            assert_eq!(relist_media(&written(&text), &media, LIMIT, |_| None), None);
        }
    }

    #[test]
    fn what_is_here_has_its_name_here_and_the_rest_its_address_at_the_origin() {
        let list = media(
            "\u{feff}#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:7\n\n\
             # a comment\n#EXTINF:6,title\n7.ts?a=b\n#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00Z\n\
             #EXTINF:6,\n../8.ts\r\n#EXT-X-DISCONTINUITY\n#EXTINF:6,\nhttps://ads.example/9.ts\n#EXT-X-ENDLIST\n",
        );
        let expected = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:7\n\
             #EXTINF:6,title\nhttps://cdn.example/live/tv/7.ts?a=b\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00Z\n#EXTINF:6,\n0/8.ts\n\
             #EXT-X-DISCONTINUITY\n#EXTINF:6,\n0/9.ts\n#EXT-X-ENDLIST\n";
        assert_eq!(list, expected);
    }

    #[test]
    fn keys_stay_at_the_origin_and_a_key_in_the_list_stays_there() {
        let list = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:8\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"keys/1?x=1,2\",IV=0x0123\n#EXTINF:6,\n8.ts\n\
             #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://asset\",KEYFORMAT=\"com.apple\"\n#EXTINF:6,\n9.ts\n\
             #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"data:text/plain;base64,AAAA\"\n#EXTINF:6,\n10.ts\n\
             #EXT-X-KEY:METHOD=NONE\n",
        );
        for line in [
            "#EXT-X-KEY:METHOD=AES-128,URI=\"https://cdn.example/live/tv/keys/1?x=1,2\",IV=0x0123\n",
            "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://asset\",KEYFORMAT=\"com.apple\"\n",
            "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"data:text/plain;base64,AAAA\"\n",
            "#EXT-X-KEY:METHOD=NONE\n",
        ] {
            assert!(list.contains(line), "{line} in {list}");
        }
    }

    #[test]
    fn a_part_of_a_resource_is_a_whole_file_here_and_says_where_it_begins_elsewhere() {
        let list = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:6\n\
             #EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"100@0\"\n\
             #EXTINF:6,\n#EXT-X-BYTERANGE:10@100\nall.mp4\n#EXTINF:6,\n#EXT-X-BYTERANGE:20\nall.mp4\n\
             #EXTINF:6,\n#EXT-X-BYTERANGE:30\nall.mp4\n",
        );
        let expected = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:6\n\
             #EXT-X-MAP:URI=\"0/init-6.mp4\"\n\
             #EXTINF:6,\n#EXT-X-BYTERANGE:10@100\nhttps://cdn.example/live/tv/all.mp4\n\
             #EXTINF:6,\n#EXT-X-BYTERANGE:20@110\nhttps://cdn.example/live/tv/all.mp4\n\
             #EXTINF:6,\n0/8.ts\n";
        assert_eq!(list, expected);
    }

    #[test]
    fn what_only_the_origins_server_can_keep_is_left_out() {
        let list = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:8\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.0\n#EXT-X-PART-INF:PART-TARGET=0.33\n\
             #EXT-X-PART:DURATION=0.33,URI=\"8.1.ts\"\n#EXTINF:6,\n8.ts\n\
             #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"9.1.ts\"\n#EXT-X-RENDITION-REPORT:URI=\"../b.m3u8\"\n",
        );
        let expected =
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:8\n#EXTINF:6,\n0/8.ts\n";
        assert_eq!(list, expected);
    }

    #[test]
    fn variables_are_replaced_in_a_media_playlist_and_told_by_a_multivariant_one() {
        let list = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:7\n\
             #EXT-X-DEFINE:QUERYPARAM=\"token\"\n#EXT-X-DEFINE:NAME=\"k\",VALUE=\"keys\"\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"{$k}/1?t={$token}\"\n#EXTINF:6,\n7.ts?t={$token}\n",
        );
        let key = "#EXT-X-KEY:METHOD=AES-128,URI=\"https://cdn.example/live/tv/keys/1?t=t\"\n";
        assert!(list.contains(key), "{list}");
        assert!(list.contains("https://cdn.example/live/tv/7.ts?t=t\n"));
        assert!(!list.contains("DEFINE"), "{list}");

        let text = "#EXTM3U\n#EXT-X-DEFINE:QUERYPARAM=\"token\"\n\
             #EXT-X-CONTENT-STEERING:SERVER-URI=\"/steer\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"x, y\",URI=\"audio.m3u8\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO=\"a\",CODECS=\"avc1.64001f,mp4a.40.2\"\nhigh.m3u8?t={$token}\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nlow.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"iframes.m3u8\"\n";
        let Playlist::Multivariant(list) = parse(text, &base(), &Variables::default()).unwrap()
        else {
            unreachable!()
        };
        let here = |url: &Url| match url.path() {
            "/live/tv/high.m3u8" => Some("0.m3u8".to_owned()),
            "/live/tv/audio.m3u8" => Some("1.m3u8".to_owned()),
            _ => None,
        };
        let expected = "#EXTM3U\n#EXT-X-DEFINE:NAME=\"token\",VALUE=\"t\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"x, y\",URI=\"1.m3u8\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO=\"a\",CODECS=\"avc1.64001f,mp4a.40.2\"\n0.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nhttps://cdn.example/live/tv/low.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"https://cdn.example/live/tv/iframes.m3u8\"\n";
        let relisted = relist_multivariant(&written(text), &list, LIMIT, here);
        assert_eq!(relisted.as_deref(), Some(expected));
    }
}
