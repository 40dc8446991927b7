//! What is wrong with a text that somebody wrote: where, why, and what to write instead.
//!
//! In: [`Diagnostic`]s, each with its places in a [`Source`]. Out: one [`Failure`] that shows all of them, each with
//! file:line:column, the line, a caret and help.
//!
//! Always plain text: the message travels through `anyhow`, JSON events and logs, where escape codes would be noise.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::error::{Failure, Kind};

/// A text and where it was read.
#[derive(Debug)]
pub struct Source {
    /// The path as people should see it.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// One problem.
#[derive(Debug)]
pub struct Diagnostic {
    message: String,
    places: Vec<Place>,
    help: Option<String>,
}

#[derive(Debug)]
struct Place {
    source: Arc<Source>,
    /// Bytes of the text; none means the file as a whole.
    span: Option<Range<usize>>,
    label: String,
}

impl Diagnostic {
    /// A problem at `span` of `source`; `message` says what is wrong, without a final stop.
    pub fn new(message: impl Into<String>, source: &Arc<Source>, span: Range<usize>) -> Self {
        Self::at(message.into(), Place { source: source.clone(), span: Some(span), label: String::new() })
    }

    /// A problem of a file as a whole, such as its name.
    pub fn of_file(message: impl Into<String>, source: &Arc<Source>) -> Self {
        Self::at(message.into(), Place { source: source.clone(), span: None, label: String::new() })
    }

    fn at(message: String, place: Place) -> Self {
        Self { message, places: vec![place], help: None }
    }

    /// A word beside the caret of the first place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.places[0].label = label.into();
        self
    }

    /// Another place that has to do with it, and how.
    #[must_use]
    pub fn and(mut self, source: &Arc<Source>, span: Range<usize>, label: impl Into<String>) -> Self {
        self.places.push(Place { source: source.clone(), span: Some(span), label: label.into() });
        self
    }

    /// What to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.no_name().primary_title(&self.message));
        for places in self.places.chunk_by(|a, b| Arc::ptr_eq(&a.source, &b.source)) {
            let source = &places[0].source;
            group = if places[0].span.is_none() {
                group.element(Origin::path(&source.path))
            } else {
                let annotations = places.iter().filter_map(|place| {
                    let first = std::ptr::eq(place, &raw const self.places[0]);
                    let kind = if first { AnnotationKind::Primary } else { AnnotationKind::Context };
                    let label = Some(place.label.as_str()).filter(|l| !l.is_empty());
                    Some(kind.span(one_line(&source.text, place.span.clone()?)).label(label))
                });
                group.element(Snippet::source(&source.text).path(&source.path).annotations(annotations))
            };
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }
}

/// One error that shows every problem, sorted by place; `who` says whose problems they are: "the profiles have".
pub fn failure(who: &str, problems: Vec<Diagnostic>) -> Failure {
    let mut text = match problems.len() {
        1 => format!("{who} a problem"),
        n => format!("{who} {n} problems"),
    };
    for problem in pictures(problems) {
        let _ = write!(text, "\n\n{problem}");
    }
    Failure::new(Kind::Input, text)
}

/// The problems as text, sorted by place.
pub fn pictures(mut problems: Vec<Diagnostic>) -> Vec<String> {
    problems.sort_by(|a, b| {
        let place = |d: &'_ Diagnostic| (d.places[0].source.path.clone(), d.places[0].span.clone().map(|s| s.start));
        place(a).cmp(&place(b))
    });
    let renderer = Renderer::plain();
    problems.iter().map(|problem| problem.render(&renderer)).collect()
}

/// Text from a file, fit to stand in a message: on one line, of bounded length, in backticks.
pub fn literal(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(escape).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let control = c.is_control();
    c.escape_default().filter(move |_| control).chain(std::iter::once(c).filter(move |_| !control))
}

/// Help for a name that is not known: the nearest one, or all when they are few and none is near.
pub fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const FEW: usize = 16;
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(near) = nearest(name, &known) {
        return Some(format!("the nearest name is {}", literal(near)));
    }
    (1..=FEW).contains(&known.len()).then(|| {
        let names: Vec<String> = known.iter().map(|k| literal(k)).collect();
        format!("the names here are {}", names.join(", "))
    })
}

/// The name most like `name`, if one is like it at all: at most a third of its letters differ.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // The distance takes memory in proportion to both lengths; nothing that long is a slip of the pen.
    const LONGEST: usize = 100;
    if name.len() > LONGEST {
        return None;
    }
    let distances = known.iter().map(|k| (strsim::damerau_levenshtein(name, k), *k));
    distances.filter(|(d, k)| *d <= k.chars().count().div_ceil(3)).min().map(|(_, k)| k)
}

/// `span` cut to the text, to whole characters and to its first line: a caret under one line is enough.
fn one_line(text: &str, span: Range<usize>) -> Range<usize> {
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let start = (0..=span.start.min(text.len())).rev().find(boundary).unwrap_or(0);
    let end = (span.end.max(start)..text.len()).find(boundary).unwrap_or(text.len());
    let line = text[start..end].find(['\n', '\r']).unwrap_or(end - start);
    start..start + line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Arc<Source> {
        Arc::new(Source { path: path.into(), text: text.into() })
    }

    #[test]
    fn two_files_in_one_problem() {
        let base = source("profiles/base.toml", "packages = [\n  \"udev\",\n]\n");
        let db = source("profiles/db.toml", "extends = \"base\"\npackages = [\"udev\"]\n");
        let problem = Diagnostic::new("`udev` is named twice", &db, 29..35)
            .label("named again")
            .and(&base, 15..21, "first named here")
            .help("remove one of the two".to_owned());
        insta::assert_snapshot!(failure("the profiles have", vec![problem]), @r#"
        the profiles have a problem

        `udev` is named twice
         --> profiles/db.toml:2:13
          |
        2 | packages = ["udev"]
          |             ^^^^^^ named again
          |
         ::: profiles/base.toml:2:3
          |
        2 |   "udev",
          |   ------ first named here
          |
          = help: remove one of the two
        "#);
    }

    #[test]
    fn all_problems_in_the_order_of_their_places() {
        let a = source("a.toml", "one = 1\ntwo = 2\n");
        let b = source("b.toml", "");
        let problems = vec![
            Diagnostic::of_file("`b` is a reserved name", &b),
            Diagnostic::new("second", &a, 8..11),
            Diagnostic::new("first", &a, 0..3),
        ];
        insta::assert_snapshot!(failure("the profiles have", problems), @r"
        the profiles have 3 problems

        first
         --> a.toml:1:1
          |
        1 | one = 1
          | ^^^

        second
         --> a.toml:2:1
          |
        2 | two = 2
          | ^^^

        `b` is a reserved name
        --> b.toml
        ");
    }

    #[test]
    fn spans_outside_the_text_are_harmless() {
        let text = source("a.toml", "a = \"é\"\r\n");
        for start in 0..12 {
            for end in 0..14 {
                failure("x", vec![Diagnostic::new("m", &text, start..end)]);
            }
        }
        failure("x", vec![Diagnostic::new("m", &source("empty.toml", ""), 0..0)]);
    }

    #[test]
    fn the_nearest_name_or_all_of_a_few() {
        assert_eq!(suggest("pakages", ["packages", "units"]).expect("helps"), "the nearest name is `packages`");
        assert_eq!(suggest("zzz", ["packages", "units"]).expect("helps"), "the names here are `packages`, `units`");
        assert_eq!(suggest("zzz", []), None);
        assert_eq!(suggest(&"z".repeat(1 << 20), []), None);
    }

    #[test]
    fn a_literal_is_short_and_on_one_line() {
        assert_eq!(literal("a\nb"), "`a\\nb`");
        assert_eq!(literal(&"é".repeat(100)).chars().count(), 63);
    }
}
