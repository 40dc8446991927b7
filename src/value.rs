//! Values that profiles and sites share: what each may look like, and what it means.
//!
//! Each is tried where it stands, so the caret is under the very value. Those that mean just what they say are types
//! without a content: [`At`](crate::document::At) holds the text.

use std::fmt;

use crate::diagnostic::literal;
use crate::document::{Value, Wrong};

/// One line of text.
#[derive(Clone, Debug)]
pub struct Line;

impl Value for Line {
    const FORMAT: &'static str = "line";
    const PATTERN: &'static str = r"^\S.*$";
    const EXAMPLES: &'static [&'static str] = &["Kubernetes worker"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.trim().is_empty() || text.contains(char::is_control) {
            return Err(Wrong::new("this must be one line of text"));
        }
        Ok(Self)
    }
}

/// The name of a profile, a role, an overlay, a suite, a component, a kernel flavour or a service.
#[derive(Clone, Debug)]
pub struct Name;

impl Value for Name {
    const FORMAT: &'static str = "name";
    const PATTERN: &'static str = "^[a-z0-9]+(-[a-z0-9]+)*$";
    const EXAMPLES: &'static [&'static str] = &[];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !text.split('-').all(part) {
            let message = "is not a name: write small letters and digits, words joined by `-`";
            return Err(Wrong::new(format!("{} {message}", literal(text))));
        }
        Ok(Self)
    }
}

/// The address of a file that castiron can fetch.
#[derive(Clone, Debug)]
pub struct Url;

impl Value for Url {
    const FORMAT: &'static str = "url";
    const PATTERN: &'static str = r"^https?://[^\s/]+(/\S*)?$";
    const EXAMPLES: &'static [&'static str] = &["https://example.com/tool-1.0"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let right = reqwest::Url::parse(text).is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        if !right || text.contains(char::is_whitespace) {
            return Err(Wrong::new(format!("{} is not an address: write `https://…` or `http://…`", literal(text))));
        }
        Ok(Self)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(
    /// The bytes.
    pub u64,
);

impl Size {
    /// The units, the largest first.
    const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];
}

impl Value for Size {
    const FORMAT: &'static str = "size";
    const PATTERN: &'static str = "^[0-9]+[KMGT]$";
    const EXAMPLES: &'static [&'static str] = &["4G", "256M"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |what: &str| Wrong::new(format!("{} {what}", literal(text)));
        let not = "is not a size: write a whole number and K, M, G or T";
        let (shift, number) = Self::UNITS
            .iter()
            .find_map(|(unit, shift)| Some((shift, text.strip_suffix(*unit)?)))
            .ok_or_else(|| wrong(not))?;
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong(not));
        }
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        match bytes.filter(|b| *b <= 1 << 60) {
            None => Err(wrong("is more than any disk holds")),
            Some(0) => Err(wrong("is no size")),
            Some(bytes) => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Size {
    /// As a profile would say it: in the largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = Self::UNITS.into_iter().find(|(_, s)| self.0.trailing_zeros() >= *s).unwrap_or(('K', 10));
        write!(f, "{}{unit}", self.0.div_ceil(1 << shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["4G", "2339M", "1T", "1025K"] {
            assert_eq!(Size::parse(text).expect("is a size").to_string(), text);
        }
        assert_eq!(Size(4097).to_string(), "5K", "never less than it is");
    }
}
