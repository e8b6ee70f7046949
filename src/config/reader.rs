//! Taking values out of parsed TOML while collecting every mistake with its place.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;
use toml_span::value::{Table, ValueInner};
use toml_span::{ErrorKind, Value};

use super::Mistake;

/// A parsed file: what has not been asked for yet, and the mistakes found so far.
pub(super) struct Document<'a> {
    text: &'a str,
    root: Table<'a>,
    mistakes: Vec<(usize, String, String)>,
    places: Vec<(String, usize)>,
}

/// One `[section]`: the keys that have not been asked for yet.
pub(super) struct Section<'a> {
    name: &'static str,
    offset: usize,
    table: Table<'a>,
    known: Vec<&'static str>,
}

impl<'a> Document<'a> {
    /// Parses `text`; one that is not TOML has the one mistake that stopped the parser.
    pub(super) fn parse(text: &'a str) -> Result<Self, Vec<Mistake>> {
        let mut value = toml_span::parse(text).map_err(|error| {
            vec![Mistake {
                line: line_of(text, error.span.start),
                key: String::new(),
                message: match error.kind {
                    ErrorKind::InvalidCharInString('\n') => {
                        "the quotation mark at the end of a text is missing".into()
                    }
                    _ => format!("not TOML: {error}"),
                },
            }]
        })?;
        let root = match value.take() {
            ValueInner::Table(table) => table,
            _ => Table::default(),
        };
        Ok(Self {
            text,
            root,
            mistakes: Vec::new(),
            places: Vec::new(),
        })
    }

    /// The `[name]` section, if there is one.
    pub(super) fn section(&mut self, name: &'static str) -> Option<Section<'a>> {
        let (key, mut value) = self.root.remove_entry(name)?;
        match value.take() {
            ValueInner::Table(table) => Some(Section::new(name, key.span.start, table)),
            _ => {
                self.mistake(
                    key.span.start,
                    name,
                    &format!("is a section: write [{name}]"),
                );
                None
            }
        }
    }

    /// Every `[[name]]` section, in order.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Section<'a>> {
        let Some((key, mut value)) = self.root.remove_entry(name) else {
            return Vec::new();
        };
        let offset = key.span.start;
        let items = match value.take() {
            ValueInner::Array(items) => items,
            _ => {
                self.mistake(
                    offset,
                    name,
                    &format!("may be given several times: write [[{name}]]"),
                );
                return Vec::new();
            }
        };
        items
            .into_iter()
            .filter_map(|mut item| {
                let offset = item.span.start;
                match item.take() {
                    ValueInner::Table(table) => Some(Section::new(name, offset, table)),
                    _ => {
                        self.mistake(offset, name, &format!("is a section: write [[{name}]]"));
                        None
                    }
                }
            })
            .collect()
    }

    /// Notes a mistake at a byte offset of the text.
    pub(super) fn mistake(&mut self, offset: usize, key: &str, message: &str) {
        self.mistakes.push((offset, key.into(), message.into()));
    }

    pub(super) fn has_mistakes(&self) -> bool {
        !self.mistakes.is_empty()
    }

    /// Remembers where something stands, for checks across sections.
    pub(super) fn remember(&mut self, what: &str, offset: usize) {
        self.places.push((what.into(), offset));
    }

    /// The last place remembered under this name: where a second definition stands.
    pub(super) fn offset_of(&self, what: &str) -> usize {
        self.places
            .iter()
            .rev()
            .find(|(name, _)| name == what)
            .map_or(0, |(_, offset)| *offset)
    }

    /// Ends the reading: what nobody asked for is a mistake too.
    pub(super) fn finish(mut self) -> Result<(), Vec<Mistake>> {
        let left: Vec<_> = self
            .root
            .keys()
            .map(|key| (key.span.start, key.name.to_string()))
            .collect();
        for (offset, name) in left {
            self.mistake(
                offset,
                &name,
                "unknown section; known are [[channel]], [signal], [signal-server], [peer], \
                 [store], [memory], [http]",
            );
        }
        if self.mistakes.is_empty() {
            return Ok(());
        }
        self.mistakes.sort();
        let text = self.text;
        Err(self
            .mistakes
            .into_iter()
            .map(|(offset, key, message)| Mistake {
                line: line_of(text, offset),
                key,
                message,
            })
            .collect())
    }
}

impl<'a> Section<'a> {
    fn new(name: &'static str, offset: usize, table: Table<'a>) -> Self {
        Self {
            name,
            offset,
            table,
            known: Vec::new(),
        }
    }

    /// Where the section starts in the text.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The value of `key`, if it is there and `read` takes it.
    pub(super) fn optional<T>(
        &mut self,
        document: &mut Document<'_>,
        key: &'static str,
        read: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        match read(&value) {
            Ok(read) => Some(read),
            Err(message) => {
                let path = format!("{}.{key}", self.name);
                document.mistake(value.span.start, &path, &message);
                None
            }
        }
    }

    /// The same for a key without which the section means nothing.
    pub(super) fn required<T>(
        &mut self,
        document: &mut Document<'_>,
        key: &'static str,
        read: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            document.mistake(
                self.offset,
                &format!("{}.{key}", self.name),
                "is missing, and has no default",
            );
        }
        self.optional(document, key, read)
    }

    /// Replaces a default by the value of `key`, if it is there.
    pub(super) fn set<T>(
        &mut self,
        document: &mut Document<'_>,
        key: &'static str,
        target: &mut T,
        read: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) {
        if let Some(value) = self.optional(document, key, read) {
            *target = value;
        }
    }

    /// Ends the section: a key that nobody asked for is a mistake.
    pub(super) fn finish(self, document: &mut Document<'_>) {
        for key in self.table.keys() {
            document.mistake(
                key.span.start,
                &format!("{}.{}", self.name, key.name),
                &format!("unknown key; known are {}", self.known.join(", ")),
            );
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
}

/// A string.
pub(super) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, String> {
    value
        .as_str()
        .ok_or_else(|| "wants a string in quotes".into())
}

/// A whole number within bounds.
pub(super) fn integer<T: TryFrom<i64>>(
    value: &Value<'_>,
    least: i64,
    most: i64,
) -> Result<T, String> {
    value
        .as_integer()
        .filter(|number| (least..=most).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("wants a whole number from {least} to {most}"))
}

/// A number within bounds, with or without a fraction.
pub(super) fn number(value: &Value<'_>, least: f64, most: f64) -> Result<f64, String> {
    value
        .as_float()
        .or_else(|| value.as_integer().map(|number| number as f64))
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("wants a number from {least} to {most}"))
}

/// A size such as "64MiB", in bytes.
pub(super) fn size<T: TryFrom<u64>>(value: &Value<'_>, least: u64, most: u64) -> Result<T, String> {
    let raw = text(value).map_err(|_| "wants a size in quotes, such as \"64MiB\"".to_owned())?;
    let size: ByteSize = raw
        .parse()
        .map_err(|_| format!("{raw:?} is not a size: write \"64MiB\" or \"2GiB\""))?;
    if !(least..=most).contains(&size.as_u64()) {
        return Err(if most == u64::MAX {
            format!("{raw:?} is too small: at least {}", ByteSize(least))
        } else {
            format!(
                "{raw:?} is out of bounds: from {} to {}",
                ByteSize(least),
                ByteSize(most)
            )
        });
    }
    T::try_from(size.as_u64()).map_err(|_| format!("{raw:?} is too large for this machine"))
}

/// A bandwidth such as "8Mbit/s", in bytes per second.
pub(super) fn bandwidth(value: &Value<'_>, least_bits: u64) -> Result<u64, String> {
    let wants = "wants a bandwidth in quotes, such as \"8Mbit/s\" or \"500kbit/s\"";
    let raw = text(value).map_err(|_| wants.to_owned())?;
    let units = [("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9)];
    let bits = units.iter().find_map(|(unit, factor)| {
        let number: f64 = raw.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * factor)
    });
    match bits {
        Some(bits) if bits >= least_bits as f64 && bits <= 1e12 => Ok((bits / 8.0) as u64),
        Some(_) => Err(format!(
            "{raw:?} is out of bounds: from {} kbit/s to 1000 Gbit/s",
            least_bits / 1000
        )),
        None => Err(format!("{raw:?} is not a bandwidth: {wants}")),
    }
}

/// A duration such as "1.6s" or "1m 30s".
pub(super) fn duration(
    value: &Value<'_>,
    least: Duration,
    most: Duration,
) -> Result<Duration, String> {
    let raw = text(value).map_err(|_| "wants a duration in quotes, such as \"1.6s\"".to_owned())?;
    let read: SignedDuration = raw
        .parse()
        .map_err(|_| format!("{raw:?} is not a duration: write \"1.6s\" or \"2m\""))?;
    Duration::try_from(read)
        .ok()
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| {
            let (least, most) = (least.as_secs(), most.as_secs());
            format!("{raw:?} is out of bounds: from {least}s to {most}s")
        })
}

/// An address to listen on.
pub(super) fn address(value: &Value<'_>) -> Result<SocketAddr, String> {
    let raw = text(value)?;
    raw.parse()
        .map_err(|_| format!("{raw:?} is not an address with a port: write \"0.0.0.0:8080\""))
}
