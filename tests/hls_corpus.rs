//! Playlists of real packagers and of the RFC: what the box understands of each is recorded beside it,
//! and a second parser sees the same in them and in thousands of their mutations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail the test

#[path = "support/differential.rs"]
mod differential;
#[path = "support/relisted.rs"]
mod relisted;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use differential::{Verdict, compare};
use edgeseed::config::Variants;
use edgeseed::hls::{self, MediaPlaylist, Multivariant, Playlist, Unfit, Variables};
use edgeseed::ids::Resource;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use relisted::changed_by_relisting;
use url::Url;

/// Set it to write down anew what is understood; the difference is then in the commit for review.
const RECORD: &str = "RECORD_CORPUS";

fn corpus() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus"),
        &mut found,
    );
    found.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "m3u8")
    });
    found.sort();
    found
}

fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

fn understood(text: &str) -> String {
    let base = Url::parse("http://origin.example.com/live/index.m3u8?token=1").unwrap();
    match hls::parse(text, &base, &Variables::default()) {
        Ok(Playlist::Media(list)) => media(&list),
        Ok(Playlist::Multivariant(list)) => multivariant(&list),
        Err(error) => format!("refused: {error}\n"),
    }
}

fn media(list: &MediaPlaylist) -> String {
    let newest = list
        .newest()
        .map_or_else(|| "none".into(), |newest| newest.to_string());
    let mut text = format!(
        "media playlist, {}, target duration {} s, {} segments from {} to {newest}\n",
        if list.endlist { "complete" } else { "live" },
        list.target_duration.as_secs(),
        list.segments.len(),
        list.media_sequence,
    );
    let mut sections = list.sections().peekable();
    for segment in &list.segments {
        if let Some((_, section)) = sections.next_if(|(number, _)| *number == segment.sequence) {
            writeln!(
                text,
                "section {} = {}",
                section.uri,
                source(&section.source)
            )
            .unwrap();
        }
        let seconds = segment.duration.as_secs_f64();
        let mark = if segment.discontinuity {
            " after a discontinuity"
        } else {
            ""
        };
        let time = segment.program_time.map_or_else(String::new, |time| {
            format!(" at {}", jiff::Timestamp::try_from(time).unwrap())
        });
        let (number, uri) = (segment.sequence, &segment.uri);
        let source = source(&segment.source);
        writeln!(text, "{number} {uri} = {source}, {seconds} s{mark}{time}").unwrap();
    }
    text
}

fn source(source: &Result<Resource, Unfit>) -> String {
    match source {
        Ok(Resource { url, range: None }) => url.to_string(),
        Ok(Resource {
            url,
            range: Some(range),
        }) => format!("{url} {range}"),
        Err(reason) => format!("refused: {reason}"),
    }
}

fn multivariant(list: &Multivariant) -> String {
    let mut text = format!("multivariant playlist, {} variants\n", list.variants.len());
    for variant in &list.variants {
        let audio = variant.audio.as_deref().unwrap_or("-");
        writeln!(
            text,
            "{} bit/s, audio {audio}: {}",
            variant.bandwidth, variant.url
        )
        .unwrap();
    }
    for audio in &list.audio {
        writeln!(text, "audio {}: {}", audio.group, audio.url).unwrap();
    }
    for url in &list.others {
        writeln!(text, "not prefetched: {url}").unwrap();
    }
    for (name, variants) in [
        ("highest", Variants::Highest),
        ("lowest", Variants::Lowest),
        ("all", Variants::All),
    ] {
        for url in list.choose(variants) {
            writeln!(text, "{name} follows {url}").unwrap();
        }
    }
    text
}

#[test]
fn what_is_understood_of_each_playlist_is_what_was_recorded() {
    let corpus = corpus();
    assert!(corpus.len() >= 40, "{}", corpus.len());
    let mut wrong = Vec::new();
    for path in corpus {
        let (found, beside) = (understood(&text_of(&path)), path.with_extension("txt"));
        if std::env::var_os(RECORD).is_some() {
            fs::write(&beside, &found).unwrap();
        }
        if fs::read_to_string(&beside).ok().as_deref() != Some(&found) {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n(set {RECORD}=1 to record it)",
        wrong.join("\n")
    );
}

#[test]
fn a_second_parser_sees_the_same_segments_in_the_corpus() {
    for path in corpus() {
        if let Verdict::Differ(how) = compare(&text_of(&path)) {
            panic!("{}: {how}", path.display());
        }
    }
}

#[test]
fn a_second_parser_sees_the_same_segments_in_mutations_of_the_corpus() {
    let texts: Vec<String> = corpus().iter().map(|path| text_of(path)).collect();
    let mut random = StdRng::seed_from_u64(8216);
    let mut excused: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut agreed, mut differ) = (0, Vec::new());
    for _ in 0..8000 {
        let text = mutated(&texts, &mut random);
        match compare(&text) {
            Verdict::Agree => agreed += 1,
            Verdict::Excused(reason) => *excused.entry(reason).or_default() += 1,
            Verdict::Differ(how) => differ.push(format!("{how}\nin\n{text}")),
        }
    }
    let count = differ.len();
    differ.truncate(3);
    assert!(
        differ.is_empty(),
        "{count} differ, such as {}",
        differ.join("\n")
    );
    println!("agreed {agreed}, excused {excused:#?}");
    assert!(agreed > 3000, "{agreed} and {excused:#?}");
}

#[test]
fn what_is_written_anew_for_other_players_means_the_same_in_the_corpus_and_its_mutations() {
    let texts: Vec<String> = corpus().iter().map(|path| text_of(path)).collect();
    let mut random = StdRng::seed_from_u64(8216);
    let mutations: Vec<String> = (0..8000).map(|_| mutated(&texts, &mut random)).collect();
    for text in texts.iter().chain(&mutations) {
        if let Some(relisted) = changed_by_relisting(text) {
            panic!("{text}\nis written anew as\n{relisted}");
        }
    }
}

/// One of the texts with a few of its lines or bytes changed.
fn mutated(texts: &[String], random: &mut StdRng) -> String {
    let text = &texts[random.random_range(0..texts.len())];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..lines.len().max(1));
        if at >= lines.len() {
            break;
        }
        match random.random_range(0..7) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = random.random_range(0..lines.len());
                lines.swap(at, other);
            }
            3 => lines.truncate(at + 1),
            4 => {
                let other = &texts[random.random_range(0..texts.len())];
                let others: Vec<&str> = other.lines().collect();
                if !others.is_empty() {
                    let line = others[random.random_range(0..others.len())];
                    lines.insert(at, line.to_owned());
                }
            }
            _ => lines[at] = garbled(&lines[at], random),
        }
    }
    lines.join("\n") + "\n"
}

fn garbled(line: &str, random: &mut StdRng) -> String {
    const PIECES: [char; 18] = [
        '0', '1', '9', '-', '+', '.', ',', ':', '@', '#', '"', '=', ' ', '\t', 'X', '/', '\u{e9}',
        '\r',
    ];
    let mut letters: Vec<char> = line.chars().collect();
    let at = random.random_range(0..=letters.len());
    let piece = PIECES[random.random_range(0..PIECES.len())];
    match random.random_range(0..3) {
        0 if at < letters.len() => drop(letters.remove(at)),
        1 if at < letters.len() => letters[at] = piece,
        _ => letters.insert(at, piece),
    }
    letters.into_iter().collect()
}
