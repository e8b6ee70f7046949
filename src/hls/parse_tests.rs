use super::*;
use crate::config::Variants;

fn base() -> Url {
    Url::parse("http://origin/live/news/index.m3u8?token=1").unwrap()
}

fn media(text: &str) -> MediaPlaylist {
    match parse(text, &base(), &Variables::default()).unwrap() {
        Playlist::Media(media) => media,
        other => panic!("{other:?}"),
    }
}

fn multivariant(text: &str) -> Multivariant {
    match parse(text, &base(), &Variables::default()).unwrap() {
        Playlist::Multivariant(multivariant) => multivariant,
        other => panic!("{other:?}"),
    }
}

fn refusal(text: &str) -> PlaylistError {
    parse(text, &base(), &Variables::default()).unwrap_err()
}

const LIVE: &str = "#EXTM3U\r\n#EXT-X-VERSION:3\r\n#EXT-X-TARGETDURATION:6\r\n#EXT-X-MEDIA-SEQUENCE:112\r\n\
    #EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\"\r\n#EXTINF:5.995,title\r\nseg_112.ts?token=a%2Fb&x=1\r\n\r\n# note\r\n\
    #EXT-X-DISCONTINUITY\r\n#EXTINF:6\r\nhttp://cdn/x/seg_113.ts\r\n";

#[test]
fn a_live_playlist_numbers_and_resolves_its_segments_and_keeps_their_uris_as_written() {
    let list = media(LIVE);
    assert_eq!(list.target_duration, Duration::from_secs(6));
    assert!(!list.endlist);
    assert_eq!(list.newest(), Some(MediaSequence(113)));
    let first = &list.segments[0];
    assert_eq!(first.uri.as_str(), "seg_112.ts?token=a%2Fb&x=1");
    assert_eq!(
        first.source.as_ref().unwrap().url.as_str(),
        "http://origin/live/news/seg_112.ts?token=a%2Fb&x=1"
    );
    assert_eq!(first.sequence, MediaSequence(112));
    assert_eq!(first.duration, Duration::from_millis(5995));
    let second = &list.segments[1];
    assert!(second.discontinuity && !first.discontinuity);
    assert_eq!(
        second.source.as_ref().unwrap().url.host_str(),
        Some("cdn"),
        "an absolute URI stays what it is"
    );
}

#[test]
fn what_cannot_be_prefetched_keeps_its_number_and_says_why() {
    let list = media(
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n#EXT-X-GAP\ngap.ts\n\
         #EXTINF:4,\n#EXT-X-BYTERANGE:0@0\nrange.ts\n#EXTINF:4,\ndata:video/mp2t,x\n\
         #EXTINF:4,\nplain.ts\n",
    );
    let sources: Vec<_> = list
        .segments
        .iter()
        .map(|s| s.source.clone().err())
        .collect();
    assert_eq!(
        sources,
        [
            Some(Unfit::Gap),
            Some(Unfit::ByteRange),
            Some(Unfit::Address),
            None
        ]
    );
    assert_eq!(list.segments[3].sequence, MediaSequence(3));
}

/// The tags and URIs in `items`, between them what every playlist needs.
fn with(items: &[&str]) -> String {
    let mut text = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n".to_owned();
    for item in items {
        if !item.starts_with('#') {
            text += "#EXTINF:4,\n";
        }
        text += item;
        text += "\n";
    }
    text
}

#[test]
fn a_byte_range_without_a_start_goes_on_where_the_one_before_ends() {
    let list = media(&with(&[
        "#EXT-X-BYTERANGE:100@20",
        "all.ts",
        "#EXT-X-BYTERANGE:50",
        "all.ts",
        "other.ts",
    ]));
    let ranges: Vec<_> = list.segments.iter().map(MediaSegment::range).collect();
    let expected = [ByteRange::new(20, 100), ByteRange::new(120, 50), None];
    assert_eq!(ranges, expected);
    for wrong in [
        vec!["#EXT-X-BYTERANGE:50", "all.ts"],
        vec!["all.ts", "#EXT-X-BYTERANGE:50", "all.ts"],
        vec!["#EXT-X-BYTERANGE:5@0", "a.ts", "#EXT-X-BYTERANGE:5", "b.ts"],
    ] {
        let error = refusal(&with(&wrong));
        assert!(matches!(error, PlaylistError::NoRangeStart(_)), "{error}");
    }
}

#[test]
fn a_map_stands_for_the_segments_after_it_until_the_next_one() {
    let list = media(&with(&[
        "0.ts",
        "#EXT-X-MAP:URI=\"init.mp4\"",
        "1.m4s",
        "#EXT-X-DISCONTINUITY",
        "2.m4s",
        "#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"700@10\"",
        "3.m4s",
        "#EXT-X-MAP:URI=\"all.mp4\", BYTERANGE=\"700\"",
        "4.m4s",
    ]));
    let inits: Vec<_> = list
        .segments
        .iter()
        .map(|segment| {
            let init = segment.init.as_ref()?;
            let range = init.source.as_ref().unwrap().range;
            Some((init.uri.as_str(), range))
        })
        .collect();
    let expected = [
        None,
        Some(("init.mp4", None)),
        Some(("init.mp4", None)),
        Some(("all.mp4", ByteRange::new(10, 700))),
        Some(("all.mp4", ByteRange::new(0, 700))),
    ];
    assert_eq!(inits, expected);
    for wrong in [
        "URI=init.mp4",
        "BYTERANGE=\"1@0\"",
        "URI=\"a\",BYTERANGE=\"x\"",
    ] {
        let error = refusal(&with(&[&format!("#EXT-X-MAP:{wrong}"), "1.m4s"]));
        assert!(
            matches!(error, PlaylistError::BadTag(_)),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn the_encoders_clock_is_counted_on_until_a_discontinuity() {
    let list = media(&with(&[
        "0.ts",
        "#EXT-X-PROGRAM-DATE-TIME:2020-01-01T01:00:00.500+0100",
        "1.ts",
        "2.ts",
        "#EXT-X-DISCONTINUITY",
        "3.ts",
        "#EXT-X-PROGRAM-DATE-TIME:soon",
        "4.ts",
    ]));
    let seconds = |segment: &MediaSegment| {
        let since = segment.program_time?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.unwrap().as_secs_f64() - 1_577_836_800.0)
    };
    let times: Vec<_> = list.segments.iter().map(seconds).collect();
    assert_eq!(times, [None, Some(0.5), Some(4.5), None, None]);
}

#[test]
fn variables_come_from_the_list_the_address_and_the_multivariant_playlist() {
    let master = multivariant(
        "#EXTM3U\n#EXT-X-DEFINE:NAME=\"cdn\",VALUE=\"http://cdn\"\n\
         #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"{$cdn}\",NAME=\"en\",URI=\"{$cdn}/en.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"{$cdn}\"\n{$cdn}/v.m3u8\n",
    );
    let urls = master.choose(Variants::All);
    let urls: Vec<_> = urls.iter().map(Url::as_str).collect();
    assert_eq!(urls, ["http://cdn/v.m3u8", "http://cdn/en.m3u8"]);
    let text = with(&[
        "#EXT-X-DEFINE:IMPORT=\"cdn\"",
        "#EXT-X-DEFINE:QUERYPARAM=\"token\"",
        "#EXT-X-DEFINE:NAME=\"path\",VALUE=\"p\"",
        "#EXT-X-MAP:URI=\"{$path}/init.mp4\"",
        "{$cdn}/{$path}/1.m4s?t={$token}",
    ]);
    let Ok(Playlist::Media(list)) = parse(&text, &base(), &master.variables) else {
        panic!("{text}");
    };
    let segment = &list.segments[0];
    assert_eq!(segment.uri.as_str(), "http://cdn/p/1.m4s?t=1");
    let init = segment.init.as_ref().unwrap();
    assert_eq!(init.uri.as_str(), "p/init.mp4");
    let undefined = |name: &str| PlaylistError::Undefined(name.into());
    assert_eq!(
        refusal(&text),
        undefined("cdn"),
        "there is nothing to import"
    );
    for (wrong, name) in [
        (vec!["{$a}.ts", "#EXT-X-DEFINE:NAME=\"a\",VALUE=\"1\""], "a"),
        (vec!["#EXT-X-DEFINE:QUERYPARAM=\"none\""], "none"),
    ] {
        assert_eq!(refusal(&with(&wrong)), undefined(name));
    }
    let twice = "#EXT-X-DEFINE:NAME=\"a\",VALUE=\"1\"";
    let error = refusal(&with(&[twice, twice]));
    assert!(matches!(error, PlaylistError::BadTag(_)), "{error}");
}

#[test]
fn a_low_latency_list_is_its_full_segments() {
    let list = media(&with(&[
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.0,CAN-SKIP-UNTIL=24",
        "#EXT-X-PART-INF:PART-TARGET=0.5",
        "#EXT-X-PART:DURATION=0.5,URI=\"1.0.ts\"",
        "1.ts",
        "#EXT-X-PART:DURATION=0.5,URI=\"2.0.ts\",INDEPENDENT=YES",
        "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"2.1.ts\"",
        "#EXT-X-RENDITION-REPORT:URI=\"../low.m3u8\",LAST-MSN=1,LAST-PART=0",
    ]));
    let uris: Vec<_> = list.segments.iter().map(|s| s.uri.as_str()).collect();
    assert_eq!(uris, ["1.ts"]);
}

#[test]
fn a_page_in_place_of_a_playlist_shows_how_it_begins() {
    let error = refusal("<!DOCTYPE html>\n<html>sign in</html>");
    assert_eq!(error, PlaylistError::NotAPlaylist("<!DOCTYPE html>".into()));
    assert!(error.to_string().contains("<!DOCTYPE html>"), "{error}");
    assert_eq!(refusal("").to_string(), "the answer is empty");
}

#[test]
fn a_list_that_cannot_be_understood_is_refused() {
    let segment = "#EXTINF:4,\na.ts\n";
    let cases = [
        (
            format!("#EXTM3U\n{segment}"),
            PlaylistError::NoTargetDuration,
        ),
        (
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\na.ts\n".into(),
            PlaylistError::NoDuration("a.ts".into()),
        ),
        (
            format!(
                "#EXTM3U\n#EXT-X-TARGETDURATION:4\n{segment}#EXT-X-STREAM-INF:BANDWIDTH=1\nv.m3u8\n"
            ),
            PlaylistError::Mixed,
        ),
        (
            "#EXTM3U\n#EXT-X-TARGETDURATION:soon\n".into(),
            PlaylistError::BadTag("#EXT-X-TARGETDURATION:soon".into()),
        ),
        (
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:-1,\na.ts\n".into(),
            PlaylistError::BadTag("#EXTINF:-1".into()),
        ),
        (
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n".into(),
            PlaylistError::DeltaUpdate,
        ),
        (
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n \t#EXT-X-GAP\na.ts\n{segment}"),
            PlaylistError::BadTag("#EXT-X-GAP".into()),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal(&text), expected, "{text}");
    }
}

#[test]
fn lists_and_uris_beyond_their_bounds_are_refused() {
    let head = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n";
    let long = format!("{head}#EXTINF:4,\n{}\n", "a".repeat(MAX_URI + 1));
    assert_eq!(refusal(&long), PlaylistError::LongUri(MAX_URI + 1));
    let many = format!("{head}{}", "#EXTINF:4,\na\n".repeat(MAX_SEGMENTS + 1));
    assert_eq!(refusal(&many), PlaylistError::TooMany(MAX_SEGMENTS));
    let last = format!("{head}#EXT-X-MEDIA-SEQUENCE:{}\n", u64::MAX);
    assert!(matches!(refusal(&last), PlaylistError::BadTag(_)));
}

const MASTER: &str = "#EXTM3U\n\
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aac\",NAME=\"en\",URI=\"audio/en.m3u8\"\n\
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"lo\",NAME=\"en\",URI=\"audio/lo.m3u8\"\n\
    #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"subs\",NAME=\"en\",URI=\"subs/en.m3u8\"\n\
    #EXT-X-STREAM-INF:BANDWIDTH=800000,AUDIO=\"lo\"\nlow.m3u8\n\
    #EXT-X-STREAM-INF:BANDWIDTH=3000000,AUDIO=\"aac\"\nhigh.m3u8\n\
    #EXT-X-STREAM-INF:BANDWIDTH=3000000,AUDIO=\"aac\"\nbackup.m3u8\n\
    #EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=5\nhigh.m3u8\n";

fn names(urls: &[Url]) -> Vec<&str> {
    urls.iter()
        .map(|url| url.path().trim_start_matches("/live/news/"))
        .collect()
}

#[test]
fn the_chosen_variant_brings_its_audio() {
    let list = multivariant(MASTER);
    assert_eq!(
        names(&list.choose(Variants::Highest)),
        ["high.m3u8", "audio/en.m3u8"]
    );
    assert_eq!(
        names(&list.choose(Variants::All)),
        [
            "low.m3u8",
            "high.m3u8",
            "backup.m3u8",
            "audio/en.m3u8",
            "audio/lo.m3u8"
        ]
    );
}

#[test]
fn a_variant_without_a_bandwidth_counts_as_the_lowest() {
    let list = multivariant(MASTER);
    assert_eq!(list.variants[3].bandwidth, 0);
    assert_eq!(
        names(&list.choose(Variants::Lowest)),
        ["high.m3u8", "audio/en.m3u8"]
    );
}

#[test]
fn the_audio_of_each_listing_of_the_chosen_video_comes_with_it() {
    let list = multivariant(
        "#EXTM3U\n\
         #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aac\",NAME=\"en\",URI=\"aac.m3u8\"\n\
         #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"ac3\",NAME=\"en\",URI=\"ac3.m3u8\"\n\
         #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"lo\",NAME=\"en\",URI=\"lo.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=3000000,AUDIO=\"aac\"\nv.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=3400000,AUDIO=\"ac3\"\nv.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=1000000,AUDIO=\"lo\"\nlow.m3u8\n",
    );
    let chosen = list.choose(Variants::Highest);
    assert_eq!(names(&chosen), ["v.m3u8", "aac.m3u8", "ac3.m3u8"]);
}

#[test]
fn a_variant_of_sound_alone_is_not_the_lowest_of_those_with_pictures() {
    let list = multivariant(
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS=\"mp4a.40.5\"\nsound.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=600000,CODECS=\"avc1.42e00a,mp4a.40.2\"\nlow.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=900000\nhigh.m3u8\n",
    );
    assert_eq!(names(&list.choose(Variants::Lowest)), ["low.m3u8"]);
    let radio = multivariant(
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS=\"mp4a.40.5\"\nlow.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=90000,CODECS=\"Opus\"\nhigh.m3u8\n",
    );
    assert_eq!(names(&radio.choose(Variants::Lowest)), ["low.m3u8"]);
    assert_eq!(names(&radio.choose(Variants::Highest)), ["high.m3u8"]);
}
