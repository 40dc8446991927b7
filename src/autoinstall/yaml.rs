//! A YAML document with the place of each key and value.
//!
//! In: a text. Out: [`Node`]s, or where the text is no YAML.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use serde_saphyr::{Location, Spanned};

use crate::diagnostic::{Diagnostic, Source};

/// A value and its place in the text, in bytes.
#[derive(Debug)]
pub struct Node {
    pub value: Value,
    pub span: Range<usize>,
}

/// A key and its place.
#[derive(Debug)]
pub struct Key {
    pub name: String,
    pub span: Range<usize>,
}

/// A value.
#[derive(Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// Reads a text.
pub fn read(source: &Arc<Source>) -> Result<Node, Diagnostic> {
    serde_saphyr::from_str::<Spanned<Value>>(&source.text).map(node).map_err(|error| {
        let at = error.location().map_or(0, |place| offset(&source.text, place.line(), place.column()));
        let told = error.to_string();
        // The first line says where and what, the others draw the place, which the diagnostic does.
        let line = told.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let what = if line.starts_with("line ") { line.split_once(": ").map_or(line, |(_, what)| what) } else { line };
        // What follows is for programmers.
        let what = what.split(", set DuplicateKeyPolicy").next().unwrap_or(what);
        Diagnostic::new(format!("not YAML: {what}"), source, at..at)
    })
}

/// The byte of a line and a column, both from 1.
fn offset(text: &str, line: u64, column: u64) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    before + rest.chars().take(column.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>()
}

fn span(location: Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().unwrap_or(0) as usize;
    start..start + span.byte_len().unwrap_or(0) as usize
}

fn node(spanned: Spanned<Value>) -> Node {
    Node { span: span(spanned.referenced), value: spanned.value }
}

impl Node {
    /// The value as JSON, for a schema.
    pub fn json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(value) => Json::Number(value.clone()),
            Value::Text(value) => Json::String(value.clone()),
            Value::List(items) => items.iter().map(Self::json).collect(),
            Value::Map(pairs) => {
                Json::Object(pairs.iter().map(|(key, value)| (key.name.clone(), value.json())).collect())
            }
        }
    }

    /// The value below, by the parts of a JSON pointer, and its place: as near as there is one.
    pub fn find<'a>(&'a self, mut path: impl Iterator<Item = &'a str>) -> &'a Self {
        let Some(part) = path.next() else { return self };
        let below = match &self.value {
            Value::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            Value::Map(pairs) => pairs.iter().find(|(key, _)| key.name == part).map(|(_, value)| value),
            _ => None,
        };
        below.map_or(self, |below| below.find(path))
    }

    /// The pairs of a map; none of anything else.
    pub fn pairs(&self) -> &[(Key, Self)] {
        if let Value::Map(pairs) = &self.value { pairs } else { &[] }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number that is none: write it as a text"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(node(item));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut map: Vec<(Key, Node)> = Vec::new();
        while let Some(key) = pairs.next_key::<Spanned<Value>>()? {
            let Value::Text(name) = key.value else { return Err(A::Error::custom("a key that is no text")) };
            let key = Key { name, span: span(key.referenced) };
            map.push((key, node(pairs.next_value::<Spanned<Value>>()?)));
        }
        Ok(Value::Map(map))
    }
}
