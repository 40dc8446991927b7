//! GRUB's environment block: the one file that GRUB and the machine both write.
//!
//! In: 1024 bytes. Out: [`EnvBlock`]. Format as in GRUB 2.12, `grub-core/lib/envblk.c`: a signature line, then `name=value`
//! lines in which a backslash keeps the next byte (a line break, a backslash) as it is, then `#` up to the end.
//!
//! GRUB writes the file where it lies, block by block, and cannot make it longer. So it has exactly 1024 bytes and is only
//! ever written in place. All that castiron keeps in it fits into the first sector, hence a power cut leaves either the
//! old or the new text. What GRUB would misread is an error here, never repaired by a guess.

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::error::{Failure, Kind};
use crate::fs;

/// Length of the block in bytes.
pub const SIZE: usize = 1024;

/// Where the block lies on the EFI system partition.
pub const PATH: &str = "EFI/ubuntu/grubenv";

/// How often GRUB tries a slot that has not been marked good again: the value of `a` and `b` in a good slot.
pub const TRIES: &str = "3";

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// An environment block, always well-formed.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvBlock {
    bytes: [u8; SIZE],
}

/// A file for GRUB's `load_env`, of any length, that GRUB never writes: a signature, the variables, and `#` up to a whole block.
/// Neither names nor values may hold a backslash or a line break.
pub fn file(variables: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut bytes = SIGNATURE.to_vec();
    for (name, value) in variables {
        let plain = |text: &str| !text.contains(['\\', '\n', '\0']);
        ensure!(plain(name) && plain(value), "`{name}={value}` is nothing that GRUB reads as it stands");
        bytes.extend(format!("{name}={value}\n").into_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(SIZE), b'#');
    Ok(bytes)
}

struct Line {
    name: String,
    value: String,
    /// Where the escaped value lies.
    place: Range<usize>,
}

impl EnvBlock {
    /// A block without variables.
    pub fn empty() -> Self {
        Self { bytes: filled_up(SIGNATURE) }
    }

    /// The block of a new disk: slot A is filled and untried, slot B is empty.
    pub fn of_new_disk() -> Self {
        Self { bytes: filled_up(&[SIGNATURE, b"order=a b\na=3\nb=0\n"].concat()) }
    }

    /// Reads a block; an error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Ok(bytes) = <[u8; SIZE]>::try_from(bytes) else { bail!("it has {} bytes instead of {SIZE}", bytes.len()) };
        ensure!(bytes.starts_with(SIGNATURE), "it does not begin with the line `# GRUB Environment Block`");
        ensure!(used(&bytes).last() == Some(&b'\n'), "its last line has no end");
        lines(&bytes)?;
        Ok(Self { bytes })
    }

    /// Reads the block in the file `path`.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&fs::read(path)?).map_err(|wrong| {
            Failure::new(Kind::Integrity, format!("`{}` is not a GRUB environment block: {wrong}", path.display()))
                .into()
        })
    }

    /// Writes the block over that in the file `path`, and waits until it is on the disk.
    pub fn write_in_place(&self, path: &Path) -> Result<()> {
        let length = fs::len(path)?;
        ensure!(length == SIZE as u64, "`{}` has {length} bytes instead of {SIZE}", path.display());
        let mut file = fs::open_rw(path)?;
        file.write_all(&self.bytes).with_context(|| format!("writing `{}`", path.display()))?;
        file.sync_all().with_context(|| format!("syncing `{}`", path.display()))
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.lines().into_iter().find(|line| line.name == name).map(|line| line.value)
    }

    /// All variables, in the block's order.
    pub fn variables(&self) -> Vec<(String, String)> {
        self.lines().into_iter().map(|line| (line.name, line.value)).collect()
    }

    /// Sets a variable; the others, comments and their order stay as they are.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        ensure!(!name.is_empty() && name.chars().all(plain), "`{name}` is not a name that GRUB can store");
        ensure!(!value.contains('\0'), "the value of `{name}` holds a NUL byte, which GRUB cannot store");
        let used = used(&self.bytes);
        let value = value.replace('\\', "\\\\").replace('\n', "\\\n");
        let text = match self.lines().into_iter().find(|line| line.name == name) {
            Some(line) => [&used[..line.place.start], value.as_bytes(), &used[line.place.end..]].concat(),
            None => [used, format!("{name}={value}\n").as_bytes()].concat(),
        };
        self.bytes = padded(&text).with_context(|| format!("no room for `{name}` in the GRUB environment block"))?;
        Ok(())
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    fn lines(&self) -> Vec<Line> {
        lines(&self.bytes).expect("every block was parsed, or made by `set`")
    }
}

/// The block without its padding.
fn used(bytes: &[u8; SIZE]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != b'#').map_or(0, |last| last + 1);
    &bytes[..end]
}

fn padded(text: &[u8]) -> Result<[u8; SIZE]> {
    ensure!(text.len() <= SIZE, "it would have {} bytes instead of {SIZE}", text.len());
    Ok(filled_up(text))
}

/// A text that is known to fit, with its padding.
fn filled_up(text: &[u8]) -> [u8; SIZE] {
    let mut bytes = [b'#'; SIZE];
    bytes[..text.len()].copy_from_slice(text);
    bytes
}

fn lines(bytes: &[u8; SIZE]) -> Result<Vec<Line>> {
    let text = used(bytes);
    let mut found: Vec<Line> = Vec::new();
    let mut start = SIGNATURE.len();
    while start < text.len() {
        let Some(end) = end_of_line(text, start) else { bail!("its last line has no end") };
        let line = std::str::from_utf8(&text[start..end]).ok().context("it holds bytes that are not UTF-8")?;
        if !line.starts_with('#') {
            let (name, value) = line.split_once('=').with_context(|| format!("its line `{line}` has no `=`"))?;
            ensure!(!name.contains(['\\', '\n']), "its line `{line}` has a backslash before the `=`");
            ensure!(found.iter().all(|earlier| earlier.name != name), "it has the variable `{name}` twice");
            let place = start + name.len() + 1..end;
            found.push(Line { name: name.to_owned(), value: unescaped(value), place });
        }
        start = end + 1;
    }
    Ok(found)
}

fn end_of_line(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match text.get(at)? {
            b'\n' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn unescaped(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_block_of_a_new_disk_is_the_text_that_grub_writes() {
        let block = EnvBlock::of_new_disk();
        assert!(block.bytes().starts_with(b"# GRUB Environment Block\norder=a b\na=3\nb=0\n#####"));
        assert_eq!(block.get("order").as_deref(), Some("a b"));
        assert_eq!(block.get("c"), None);
        assert!(EnvBlock::parse(block.bytes()).expect("is well-formed") == block);
    }

    #[test]
    fn setting_keeps_comments_order_and_other_variables() {
        let text = b"# GRUB Environment Block\n# WARNING: Do not edit\nsaved=x\na=2\nb=0\n";
        let mut block = EnvBlock::parse(&padded(text).expect("fits")).expect("is well-formed");
        block.set("a", "3").expect("fits");
        let wanted = b"# GRUB Environment Block\n# WARNING: Do not edit\nsaved=x\na=3\nb=0\n";
        assert!(*block.bytes() == padded(wanted).expect("fits"));
    }

    #[test]
    fn what_grub_would_misread_is_refused_and_named() {
        let block = |text: &str| padded([SIGNATURE, text.as_bytes()].concat().as_slice()).expect("fits").to_vec();
        for (bytes, wrong) in [
            (vec![], "it has 0 bytes instead of 1024"),
            (vec![b'#'; 1025], "it has 1025 bytes instead of 1024"),
            (vec![0; SIZE], "it does not begin with the line `# GRUB Environment Block`"),
            (block("a=3"), "its last line has no end"),
            (block("a=3\\\n"), "its last line has no end"),
            (block("a 3\n"), "its line `a 3` has no `=`"),
            (block("a=3\na=2\n"), "it has the variable `a` twice"),
        ] {
            assert_eq!(EnvBlock::parse(&bytes).err().expect("is broken").to_string(), wrong);
        }
    }

    #[test]
    fn a_value_too_long_is_refused_and_changes_nothing() {
        let mut block = EnvBlock::of_new_disk();
        let error = block.set("a", &"x".repeat(SIZE)).expect_err("is too long");
        assert_eq!(error.to_string(), "no room for `a` in the GRUB environment block");
        assert!(block == EnvBlock::of_new_disk());
    }

    #[test]
    fn a_file_is_written_in_place_and_never_made_longer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("grubenv");
        std::fs::write(&path, EnvBlock::empty().bytes()).expect("writes");
        EnvBlock::of_new_disk().write_in_place(&path).expect("writes");
        assert!(EnvBlock::read(&path).expect("reads") == EnvBlock::of_new_disk());
        std::fs::write(&path, "short").expect("writes");
        EnvBlock::of_new_disk().write_in_place(&path).expect_err("would make it longer");
        let error = EnvBlock::read(&path).err().expect("is broken").to_string();
        assert!(error.contains("is not a GRUB environment block: it has 5 bytes instead of 1024"), "{error}");
    }

    proptest! {
        #[test]
        fn variables_are_what_was_set_last(
            sets in proptest::collection::vec(("[a-z_][a-z0-9_]{0,7}", "[ -~\n\\\\#=é]{0,40}"), 0..30)
        ) {
            let mut block = EnvBlock::empty();
            let mut model = BTreeMap::new();
            for (name, value) in sets {
                let before = block.clone();
                if block.set(&name, &value).is_ok() {
                    model.insert(name, value);
                } else {
                    prop_assert!(block == before);
                }
                block = EnvBlock::parse(block.bytes()).expect("what was set can be read");
            }
            prop_assert_eq!(block.variables().into_iter().collect::<BTreeMap<_, _>>(), model);
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut text in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = EnvBlock::parse(&text);
            text.splice(0..0, SIGNATURE.iter().copied());
            if let Ok(mut block) = EnvBlock::parse(&padded(&text).expect("fits")) {
                block.set("a", "3").expect("has room");
                prop_assert_eq!(block.get("a"), Some("3".to_owned()));
            }
        }
    }
}
