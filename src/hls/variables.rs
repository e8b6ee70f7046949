//! Variables of a playlist (`EXT-X-DEFINE`, draft-pantos-hls-rfc8216bis section 4.3).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{MAX_URI, PlaylistError};

/// Variables of one playlist at most: packagers use a handful.
const MAX_VARIABLES: usize = 256;

/// What the variables of a playlist stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    values: BTreeMap<String, String>,
}

impl Variables {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether `name` was free: "a Variable Name MUST NOT be defined more than once".
    pub(super) fn define(&mut self, name: &str, value: &str) -> Result<bool, PlaylistError> {
        if self.values.len() == MAX_VARIABLES {
            return Err(PlaylistError::TooMany(MAX_VARIABLES));
        }
        let old = self.values.insert(name.to_owned(), value.to_owned());
        Ok(old.is_none())
    }

    /// `text` with each `{$name}` replaced, once: what a value holds is not looked at again. What
    /// comes of it is of [`MAX_URI`] bytes at most.
    pub(super) fn replace<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, PlaylistError> {
        let mut replaced = String::new();
        let mut rest = text;
        while let Some((before, name, after)) = next_reference(rest) {
            let value = self.get(name);
            let value = value.ok_or_else(|| PlaylistError::Undefined(name.to_owned()))?;
            replaced.push_str(before);
            replaced.push_str(value);
            if replaced.len() > MAX_URI {
                return Err(PlaylistError::LongUri(replaced.len()));
            }
            rest = after;
        }
        if rest.len() == text.len() {
            return Ok(Cow::Borrowed(text));
        }
        replaced.push_str(rest);
        Ok(Cow::Owned(replaced))
    }
}

/// The text before the first reference, its name, and the text after it.
fn next_reference(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(found) = text[from..].find("{$") {
        let name = from + found + 2;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let rest = text[name..].trim_start_matches(is_name);
        let end = text.len() - rest.len();
        if end > name
            && let Some(after) = rest.strip_prefix('}')
        {
            return Some((&text[..name - 2], &text[name..end], after));
        }
        from = name;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in pairs {
            assert!(variables.define(name, value).unwrap());
        }
        variables
    }

    #[test]
    fn references_are_replaced_and_what_only_looks_like_one_stays() {
        let variables = variables(&[("a", "1"), ("path-2_x", "p/q"), ("nested", "{$a}")]);
        for (text, expected) in [
            ("{$path-2_x}/{$a}.ts", "p/q/1.ts"),
            ("{$a}{$a}", "11"),
            ("{$}/{$ a}/{$a", "{$}/{$ a}/{$a"),
            ("{{$a}}", "{1}"),
            ("{$nested}", "{$a}"),
            ("plain", "plain"),
        ] {
            assert_eq!(variables.replace(text).unwrap(), expected, "{text}");
        }
        let error = variables.replace("{$b}.ts").unwrap_err();
        assert_eq!(error, PlaylistError::Undefined("b".into()));
    }

    #[test]
    fn what_comes_of_it_is_bounded() {
        let variables = variables(&[("long", &"x".repeat(1000))]);
        assert!(variables.replace("{$long}{$long}").is_ok());
        let error = variables.replace(&"{$long}".repeat(100)).unwrap_err();
        assert!(matches!(error, PlaylistError::LongUri(_)));
    }

    #[test]
    fn a_second_definition_of_a_name_is_told() {
        let mut variables = variables(&[("a", "1")]);
        assert!(!variables.define("a", "2").unwrap());
    }
}
