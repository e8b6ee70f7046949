//! A second parser sees the same segments.
#![no_main]

#[path = "../../tests/support/differential.rs"]
mod differential;

use differential::Verdict;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Verdict::Differ(how) = differential::compare(text) {
        panic!("{how}");
    }
});
