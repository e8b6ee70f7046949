//! Any text at all: it is understood or refused, a tracker makes sense of it, and written anew it means the
//! same.
#![no_main]

use std::time::{Duration, Instant};

use edgeseed::config::{Matching, Variants};
use edgeseed::hls::{self, Playlist, Tracker, Variables};
use libfuzzer_sys::fuzz_target;
use url::Url;

#[path = "../../tests/support/relisted.rs"]
mod relisted;

fuzz_target!(|texts: (&str, &str)| {
    let base = Url::parse("http://origin.example.com/live/index.m3u8?token=1").expect("an address");
    let mut tracker = Tracker::new(Duration::from_secs(60), Matching::Exact);
    for text in [texts.0, texts.1] {
        assert_eq!(relisted::changed_by_relisting(text), None);
        match hls::parse(text, &base, &Variables::default()) {
            Ok(Playlist::Media(list)) => {
                tracker.on_playlist(Instant::now(), &list);
            }
            Ok(Playlist::Multivariant(list)) => {
                list.choose(Variants::All);
            }
            Err(_) => {}
        }
    }
});
