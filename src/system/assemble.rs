//! Tree and overlays become one tar, on the way to `mksquashfs`.
//!
//! In: the tree's tar, the overlay. Out: a tar, sorted as it came and then the overlay's, and what was in it. What is still
//! being made while the tree passes comes last.
//!
//! One pass, nothing held but small files that are edited: peak memory does not grow with the image. Every file is
//! hashed as it passes, for `castiron why` and `castiron diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tar::{Archive, Builder, EntryType, Header};

use super::clean;
use super::contents::{self, Licences, Owners, PathEntry};
use crate::digest::{HashWriter, Sha256};
use crate::rootfs::overlay::{self, Content, Overlay};
use crate::tools::EPOCH;

/// What is known of the image while its files pass.
pub struct Edits<'a> {
    /// The role.
    pub role: &'a str,
    /// The version.
    pub version: &'a str,
}

/// What was in it.
pub struct Assembled {
    /// Every path, sorted.
    pub entries: Vec<PathEntry>,
    /// The licences of its packages.
    pub licences: Licences,
}

const DAY: u64 = 86_400;
const SMALL: u64 = 4 << 20;

/// Writes the image's tar to `out`. `late` is waited for at the end, and brings paths that neither tree nor overlay has.
/// `progress` is told the bytes of each file, and may stop it.
pub fn assemble(
    tree: impl Read,
    overlay: &Overlay,
    late: impl FnOnce() -> Result<Overlay>,
    edits: &Edits<'_>,
    out: impl Write,
    mut progress: impl FnMut(u64) -> Result<()>,
) -> Result<Assembled> {
    let mut archive = Archive::new(BufReader::with_capacity(1 << 20, tree));
    let mut tar = Builder::new(std::io::BufWriter::with_capacity(1 << 20, out));
    let mut entries = BTreeMap::<String, PathEntry>::new();
    let mut owners = Owners::default();
    let mut licences = Licences::new();
    let mut dropped = BTreeSet::<PathBuf>::new();

    for entry in archive.entries().context("reading the tree's tar")? {
        let mut entry = entry.context("reading the tree's tar")?;
        let path = relative(&entry.path().context("reading a path of the tree's tar")?);
        let size = entry.size();
        progress(size)?;
        if path.starts_with("var/lib/dpkg/info") && path.extension().is_some_and(|e| e == "list") {
            owners.add_list(&path.file_name().unwrap_or_default().to_string_lossy(), &small_text(&mut entry, size)?);
            continue;
        }
        if path.as_os_str().is_empty() || clean::is_dropped(&path) || is_covered(overlay, &path, entry.header()) {
            dropped.insert(path);
            continue;
        }
        let link = entry.link_name().context("reading a link of the tree's tar")?.map(std::borrow::Cow::into_owned);
        let mut header = Header::new_gnu();
        header.set_mode(entry.header().mode()?);
        header.set_uid(entry.header().uid()?);
        header.set_gid(entry.header().gid()?);
        header.set_mtime(EPOCH);
        header.set_entry_type(entry.header().entry_type());
        header.set_size(0);
        let mut found = PathEntry {
            path: path.to_string_lossy().into_owned(),
            kind: String::new(),
            mode: format!("{:04o}", entry.header().mode()?),
            size: 0,
            sha256: None,
            target: None,
            origin: String::new(),
        };
        copy_attributes(&mut entry, &mut tar)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                found.kind = "folder".into();
                tar.append_data(&mut header, &path, std::io::empty())
            }
            EntryType::Symlink => {
                let target = link.with_context(|| format!("`{}` points nowhere", path.display()))?;
                found.kind = "link".into();
                found.target = Some(target.to_string_lossy().into_owned());
                tar.append_link(&mut header, &path, target)
            }
            EntryType::Link => {
                let target = relative(&link.with_context(|| format!("`{}` links to nothing", path.display()))?);
                if dropped.contains(&target) {
                    bail!("`{}` is a hard link to `{}`, which the image leaves out", path.display(), target.display());
                }
                found.kind = "hardlink".into();
                found.target = Some(target.to_string_lossy().into_owned());
                tar.append_link(&mut header, &path, target)
            }
            EntryType::Regular => {
                found.kind = "file".into();
                let mut hashed = HashWriter::new(std::io::sink());
                let appended = if let Some(bytes) = edited(&mut entry, &path, size, edits, &mut licences)? {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, &path, Tee { from: bytes.as_slice(), to: &mut hashed })
                } else {
                    header.set_size(size);
                    tar.append_data(&mut header, &path, Tee { from: &mut entry, to: &mut hashed })
                };
                let (sha256, size) = hashed.finish();
                found.sha256 = Some(sha256);
                found.size = size;
                appended
            }
            other => bail!("`{}` is of a kind that an image has no use for: {other:?}", path.display()),
        }
        .with_context(|| format!("writing `{}` into the image", path.display()))?;
        entries.insert(found.path.clone(), found);
    }
    let late = late()?;
    for (path, entry) in overlay.entries().chain(late.entries()) {
        let name = path.to_string_lossy().into_owned();
        if matches!(entry.content, Content::Folder) && entries.contains_key(&name) {
            continue;
        }
        overlay::append(&mut tar, path, entry)?;
        entries.insert(name.clone(), described(name, entry)?);
    }
    tar.into_inner().context("ending the image's tar")?.flush().context("ending the image's tar")?;

    let mut entries: Vec<PathEntry> = entries.into_values().collect();
    for entry in entries.iter_mut().filter(|e| e.origin.is_empty()) {
        entry.origin = owners.origin(&entry.path);
    }
    Ok(Assembled { entries, licences })
}

fn relative(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect()
}

/// Whether the overlay brings something else for this path. A folder over a folder keeps the tree's own bits.
fn is_covered(overlay: &Overlay, path: &Path, header: &Header) -> bool {
    overlay
        .get(path)
        .is_some_and(|entry| !(matches!(entry.content, Content::Folder) && header.entry_type() == EntryType::Directory))
}

/// Extended attributes (file capabilities) travel as PAX records `SCHILY.xattr.<name>`.
fn copy_attributes(entry: &mut tar::Entry<'_, impl Read>, tar: &mut Builder<impl Write>) -> Result<()> {
    let Some(extensions) = entry.pax_extensions().context("reading attributes in the tree's tar")? else {
        return Ok(());
    };
    let mut attributes = Vec::new();
    for extension in extensions {
        let extension = extension.context("reading attributes in the tree's tar")?;
        if extension.key_bytes().starts_with(b"SCHILY.xattr.") {
            let key = extension.key().context("reading an attribute's name")?.to_owned();
            attributes.push((key, extension.value_bytes().to_vec()));
        }
    }
    if !attributes.is_empty() {
        tar.append_pax_extensions(attributes.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
            .context("writing attributes into the image's tar")?;
    }
    Ok(())
}

/// The new content of a file that castiron edits; nothing for all others, which then have not been read.
fn edited(
    entry: &mut tar::Entry<'_, impl Read>,
    path: &Path,
    size: u64,
    edits: &Edits<'_>,
    licences: &mut Licences,
) -> Result<Option<Vec<u8>>> {
    if path == Path::new("usr/lib/os-release") {
        let mut text = small_text(entry, size)?;
        let _ = writeln!(text, "IMAGE_ID=castiron-{}\nIMAGE_VERSION={}", edits.role, edits.version);
        return Ok(Some(text.into_bytes()));
    }
    if path == Path::new("etc/shadow") {
        let text = small_text(entry, size)?;
        return Ok(Some(clean::fix_shadow(text.as_bytes(), EPOCH / DAY)));
    }
    if let Some(package) = copyright_of(path) {
        let text = small_text(entry, size)?;
        licences.insert(package, contents::licences_of(&text));
        return Ok(Some(text.into_bytes()));
    }
    Ok(None)
}

fn copyright_of(path: &Path) -> Option<String> {
    let rest = path.strip_prefix("usr/share/doc").ok()?;
    let package = rest.parent()?;
    (rest.file_name()? == "copyright" && package.components().count() == 1)
        .then(|| package.to_string_lossy().into_owned())
}

fn small_text(entry: &mut impl Read, size: u64) -> Result<String> {
    if size > SMALL {
        bail!("a text of {size} bytes is larger than any that the image should have");
    }
    let mut bytes = Vec::with_capacity(size as usize);
    entry.read_to_end(&mut bytes).context("reading the tree's tar")?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

fn described(path: String, entry: &overlay::Entry) -> Result<PathEntry> {
    let mut found = PathEntry {
        path,
        kind: String::new(),
        mode: format!("{:04o}", entry.mode),
        size: 0,
        sha256: None,
        target: None,
        origin: entry.origin.clone(),
    };
    match &entry.content {
        Content::Folder => found.kind = "folder".into(),
        Content::Link(target) => {
            found.kind = "link".into();
            found.target = Some(target.to_string_lossy().into_owned());
        }
        Content::File(from) => {
            let (sha256, size) = Sha256::of_file(from)?;
            (found.kind, found.sha256, found.size) = ("file".into(), Some(sha256), size);
        }
        Content::Bytes(bytes) => {
            (found.kind, found.sha256, found.size) = ("file".into(), Some(Sha256::of(bytes)), bytes.len() as u64);
        }
    }
    Ok(found)
}

/// Reads from `from` and shows what was read to `to`.
struct Tee<'a, R, W> {
    from: R,
    to: &'a mut W,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.to.write_all(&buffer[..n])?;
        Ok(n)
    }
}
