//! One line for each event, on standard error. `RUST_LOG` chooses more or less (env_logger).
//!
//! Under systemd each line starts with its priority as `<N>` (sd-daemon(3)) and carries no time,
//! which the journal has already.

use std::io::Write;

use env_logger::{Builder, Env};
use log::{Level, Record};

/// What is said by default: our own events, and of the WebRTC stack only what is wrong with it;
/// its warnings are about single datagrams of single viewers. What the verifier of certificates says
/// at each attempt, `fetch` says once, and of which channel.
const DEFAULT_FILTER: &str = "info,rtc=error,rustls_platform_verifier=off";

/// Starts logging. Only the first call has an effect.
pub fn init() {
    let mut builder = Builder::from_env(Env::default().default_filter_or(DEFAULT_FILTER));
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder
            .format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()));
    } else {
        builder.format(|out, record| {
            let style = out.default_level_style(record.level());
            let time = jiff::Timestamp::now().strftime("%H:%M:%S");
            writeln!(
                out,
                "{time} {style}{:<5}{style:#} {}",
                level(record),
                record.args()
            )
        });
    }
    // A second logger is refused; the first one goes on.
    let _ = builder.try_init();
}

fn level(record: &Record<'_>) -> &'static str {
    record.level().as_str()
}

/// syslog(3) priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
