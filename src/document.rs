//! A TOML file read against a Rust type, everything that is wrong with it found at once.
//!
//! In: the text, and a type with serde and a JSON Schema. Out: the value, and a diagnostic for each problem.
//!
//! serde stops at the first error. So the document is walked first, against the type's own JSON Schema (which editors
//! get, too): unknown keys, wrong types, missing keys and wrong values are reported with their places and cut out.
//! serde reads what is left, so that rules across several files can still be tried in the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Source, literal, suggest};

/// A kind of string with a meaning: a size, a digest, a package.
pub trait Value: Sized {
    /// Its name in the schema.
    const FORMAT: &'static str;
    /// A regular expression for editors; it may accept more than [`Value::parse`].
    const PATTERN: &'static str;
    /// Examples, the first of them in messages.
    const EXAMPLES: &'static [&'static str];
    /// Reads it.
    fn parse(text: &str) -> Result<Self, Wrong>;
}

/// Why a text is not the value it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it is not, and what to write.
    pub message: String,
    /// More help, e.g. the nearest right spelling.
    pub help: Option<String>,
}

impl Wrong {
    /// A reason without more help.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }
}

/// A value, as it was written and where.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// What it means.
    pub value: T,
    /// What was written.
    pub text: String,
    /// Where in its file, in bytes.
    pub span: Range<usize>,
}

impl<'de, T: Value> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let value = T::parse(text.get_ref()).map_err(|wrong| D::Error::custom(wrong.message))?;
        Ok(Self { value, span: text.span(), text: text.into_inner() })
    }
}

impl<T> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<T: Value> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::FORMAT.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "string", "format": T::FORMAT, "pattern": T::PATTERN });
        if !T::EXAMPLES.is_empty() {
            schema.insert("examples".to_owned(), T::EXAMPLES.into());
        }
        schema
    }
}

/// How the walk tries the values of one `format` of the schema.
pub struct Format {
    name: &'static str,
    parse: fn(&str) -> Result<(), Wrong>,
}

impl Format {
    /// The format of `T`.
    pub const fn of<T: Value>() -> Self {
        Self { name: T::FORMAT, parse: |text| T::parse(text).map(drop) }
    }

    /// Its name in the schema.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The JSON Schema (draft 2020-12) of a document: without `null`, which TOML does not have, and with a title for each key.
pub fn schema<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12()
        .with(|s| s.inline_subschemas = true)
        .with_transform(schemars::transform::RecursiveTransform(tidy));
    settings.into_generator().into_root_schema_for::<T>()
}

fn tidy(schema: &mut Schema) {
    if let Some(Json::Array(types)) = schema.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    schema.remove("default");
    for (key, property) in schema.get_mut("properties").and_then(Json::as_object_mut).into_iter().flatten() {
        if let Some(property) = property.as_object_mut() {
            property.entry("title").or_insert_with(|| key.as_str().into());
        }
    }
}

/// What was read.
#[derive(Debug)]
pub struct Document<T> {
    /// The value, without what was cut out.
    pub value: T,
    /// The keys at the top of the file below which something was wrong: what they lack is no news.
    pub cut: BTreeSet<String>,
}

/// Reads a document. None when nothing can be made of it; then, and when a part had to be cut out, `problems` grow.
pub fn read<T: DeserializeOwned + JsonSchema>(
    source: &Arc<Source>,
    formats: &[Format],
    problems: &mut Vec<Diagnostic>,
) -> Option<Document<T>> {
    let (mut document, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        problems.extend(syntax(source, &errors));
        return None;
    }
    let schema = schema::<T>();
    let mut walk = Walk { source, formats, root: schema.as_value(), problems, cut: BTreeSet::new() };
    walk.table(document.get_mut(), 0..0, schema.as_value(), "this file");
    let cut = walk.cut;
    match T::deserialize(toml::de::Deserializer::from(document)) {
        Ok(value) => Some(Document { value, cut }),
        Err(error) => {
            if cut.is_empty() {
                problems.push(Diagnostic::new(error.message(), source, error.span().unwrap_or_default()));
            }
            None
        }
    }
}

/// The errors of the parser, one a line: it goes on after an error, but what follows on the line mostly follows from it.
fn syntax(source: &Arc<Source>, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let line = |at: usize| source.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count();
    let mut first = BTreeMap::new();
    for error in errors {
        let span = error.span().unwrap_or_default();
        let problem = || Diagnostic::new(format!("not TOML: {}", error.message()), source, span.clone());
        first.entry(line(span.start)).or_insert_with(problem);
    }
    first.into_values().collect()
}

/// Where a value stands: under a key, or in its list.
#[derive(Clone, Copy)]
struct Key<'a> {
    key: &'a str,
    item: bool,
}

impl Key<'_> {
    /// What messages call it.
    fn name(self, schema: &Json) -> String {
        match (self.item, schema["type"].as_str()) {
            (true, Some("object")) => format!("`[[{}]]`", self.key),
            (true, _) => format!("an item of `{}`", self.key),
            (false, _) => format!("`{}`", self.key),
        }
    }
}

struct Walk<'a> {
    source: &'a Arc<Source>,
    formats: &'a [Format],
    root: &'a Json,
    problems: &'a mut Vec<Diagnostic>,
    cut: BTreeSet<String>,
}

impl Walk<'_> {
    fn report(&mut self, message: String, span: Range<usize>, help: Option<String>) {
        self.problems.push(Diagnostic::new(message, self.source, span).help(help));
    }

    /// Reports what is wrong in a value, cuts out what can be, and says whether the rest may stay.
    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, schema: &Json, key: Key<'_>) -> bool {
        let span = value.span();
        match (value.get_mut(), schema["type"].as_str()) {
            (DeValue::Table(table), Some("object")) => self.table(table, span, schema, &key.name(schema)),
            (DeValue::Array(array), Some("array")) => self.array(array, span, schema, key),
            (DeValue::String(text), Some("string")) => self.text(text, span, schema),
            (DeValue::Integer(number), Some("integer")) => {
                let number = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
                self.number(number, span, schema, key)
            }
            // What has no type means something to somebody else only.
            (DeValue::Boolean(_), Some("boolean")) | (_, None) => true,
            (other, _) => {
                let message =
                    format!("{} must be {}, and this is {}", key.name(schema), expected(schema), found(other));
                self.report(message, span, how_to_write(other, schema, key));
                false
            }
        }
    }

    fn text(&mut self, text: &str, span: Range<usize>, schema: &Json) -> bool {
        let format = self.formats.iter().find(|f| Some(f.name) == schema["format"].as_str());
        match format.map_or(Ok(()), |f| (f.parse)(text)) {
            Ok(()) => true,
            Err(wrong) => {
                self.report(wrong.message, span, wrong.help);
                false
            }
        }
    }

    fn number(&mut self, number: Option<i64>, span: Range<usize>, schema: &Json, key: Key<'_>) -> bool {
        let bound = |name: &str| schema[name].as_i64();
        let (least, most) = (bound("minimum").unwrap_or(i64::MIN), bound("maximum").unwrap_or(i64::MAX));
        let right = number.is_some_and(|n| (least..=most).contains(&n));
        if !right {
            self.report(format!("{} must be from {least} to {most}", key.name(schema)), span, None);
        }
        right
    }

    fn array(&mut self, array: &mut DeArray<'_>, span: Range<usize>, schema: &Json, key: Key<'_>) -> bool {
        if array.is_empty() && schema["minItems"].as_u64().is_some_and(|least| least > 0) {
            self.report(format!("{} must name at least one", key.name(schema)), span, None);
            return false;
        }
        let key = Key { key: key.key, item: true };
        let items = std::mem::replace(array, DeArray::new()).into_iter();
        *array = items.filter_map(|mut item| self.value(&mut item, &schema["items"], key).then_some(item)).collect();
        true
    }

    fn table(&mut self, table: &mut DeTable<'_>, span: Range<usize>, schema: &Json, name: &str) -> bool {
        let required = || schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
        for key in required().filter(|k| !table.contains_key(*k)) {
            if std::ptr::eq(schema, self.root) {
                self.cut.insert(key.to_owned());
            }
            self.report(format!("{name} lacks `{key}`"), span.clone(), Some(example(key, &schema["properties"][key])));
        }
        let mut cut = Vec::new();
        for (key, value) in table.iter_mut() {
            let before = self.problems.len();
            let name = key.get_ref().as_ref();
            let property = schema["properties"].get(name);
            // A table whose keys are names that its author chose.
            let free =
                || schema.get("additionalProperties").filter(|any| any.is_object() || any.as_bool() == Some(true));
            let stays = if let Some(property) = property.or_else(free) {
                self.value(value, property, Key { key: name, item: false })
            } else {
                let help = self.elsewhere(name).or_else(|| suggest(name, keys(schema)));
                self.report(format!("unknown key {}", literal(name)), key.span(), help);
                false
            };
            if !stays {
                cut.push(name.to_owned());
            }
            if self.problems.len() > before && std::ptr::eq(schema, self.root) {
                self.cut.insert(name.to_owned());
            }
        }
        for key in &cut {
            table.remove(key.as_str());
        }
        required().all(|k| table.contains_key(k))
    }

    /// Help for a key that is right, but in another table: in TOML all that follows `[table]` belongs to it.
    fn elsewhere(&self, key: &str) -> Option<String> {
        if self.root["properties"].get(key).is_some() {
            return Some(format!("`{key}` stands above the first `[table]` of the file"));
        }
        let mut tables = keys(self.root).filter(|t| self.root["properties"][*t]["properties"].get(key).is_some());
        let table = tables.next()?;
        // A key of several tables says nothing about which was meant.
        tables.next().is_none().then(|| format!("`{key}` stands under `[{table}]`"))
    }
}

fn keys(schema: &Json) -> impl Iterator<Item = &str> {
    schema["properties"].as_object().into_iter().flat_map(|p| p.keys().map(String::as_str))
}

/// How to write a key that is missing.
fn example(key: &str, schema: &Json) -> String {
    let pair = |(key, value): (&String, &Json)| format!("{key} = {value}");
    match (&schema["examples"][0], expected(schema)) {
        (Json::Null, "a table") => format!("write `[{key}]` and its keys below it"),
        (Json::Null, "a list of tables") => format!("write `[[{key}]]` and its keys below it"),
        (Json::Null, "a list of strings") => format!("write `{key} = […]`"),
        (Json::Null, _) => format!("write `{key} = \"…\"`"),
        (Json::Object(table), _) => {
            format!("write `{key} = {{ {} }}`", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        (example, _) => format!("write `{key} = {example}`"),
    }
}

fn expected(schema: &Json) -> &'static str {
    match (schema["type"].as_str(), schema["items"]["type"].as_str()) {
        (Some("array"), Some("object")) => "a list of tables",
        (Some("array"), _) => "a list of strings",
        (Some("object"), _) => "a table",
        (Some("integer"), _) => "a whole number",
        (Some("boolean"), _) => "`true` or `false`",
        _ => "a string",
    }
}

fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn how_to_write(value: &DeValue<'_>, schema: &Json, Key { key, item }: Key<'_>) -> Option<String> {
    let example = &schema["examples"][0];
    Some(match (value, expected(schema)) {
        (DeValue::String(_), "a list of strings") => "put it in brackets: `[\"…\"]`".to_owned(),
        (DeValue::Array(_) | DeValue::Table(_), "a string") => return None,
        (DeValue::String(_), "a whole number" | "`true` or `false`") => "write it without quotes".to_owned(),
        (_, "a string") if item || example.is_null() => "put it in double quotes".to_owned(),
        (_, "a string") => format!("put it in double quotes, as in `{key} = {example}`"),
        (_, "a table") if !item => format!("write `[{key}]` and its keys below it"),
        (_, "a table" | "a list of tables") => format!("write `[[{key}]]` and its keys below it"),
        _ => return None,
    })
}
