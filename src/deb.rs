//! Reading .deb files: an ar archive of two tar archives, as a stream.
//!
//! In: a .deb whose digest somebody has verified. Out: its control stanza, some of its files, or all of them, on disk or in a tar.
//! Runs: nothing; the tar and the decompressors are crates.
//!
//! - The ar layer is read here: forty lines for the one shape that deb(5) allows, where the `ar` crate (0.9) panics on a
//!   broken index of long names and allocates whatever size a header names.
//! - [`unpack`] is for trees that castiron itself uses, made by an ordinary user: no owners, no devices, and no setuid
//!   bits, for nobody shall find a setuid program of an old release in a cache folder. Images are made by dpkg.
//! - /bin, /lib and so on may be links into /usr: a folder of a package never replaces a link to a folder.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Permissions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use tar::EntryType;

use crate::fs;

const MAGIC: &[u8] = b"!<arch>\n";
/// A control stanza is a few KiB; the longest in noble has 60.
const CONTROL_LIMIT: u64 = 1 << 20;

/// The control stanza of a package.
pub fn control(path: &Path) -> Result<String> {
    let reading = || format!("reading the control file of `{}`", path.display());
    let mut tar = tar::Archive::new(member(path, "control.tar").with_context(reading)?);
    for entry in tar.entries().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if inside(&entry.path().with_context(reading)?).is_some_and(|p| p == Path::new("control")) {
            let mut text = String::new();
            entry.take(CONTROL_LIMIT).read_to_string(&mut text).with_context(reading)?;
            return Ok(text);
        }
    }
    bail!("`{}` has no control file", path.display())
}

/// Some files of a package, by their paths without the leading slash. All of them must be there.
pub fn read_files(path: &Path, wanted: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
    let reading = || format!("reading `{}`", path.display());
    let mut found = BTreeMap::new();
    let mut tar = tar::Archive::new(member(path, "data.tar").with_context(reading)?);
    for entry in tar.entries().with_context(reading)? {
        let mut entry = entry.with_context(reading)?;
        let Some(name) = inside(&entry.path().with_context(reading)?) else { continue };
        if let Some(name) = wanted.iter().find(|w| Path::new(w) == name)
            && entry.header().entry_type().is_file()
        {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(reading)?;
            found.insert((*name).to_owned(), bytes);
            if found.len() == wanted.len() {
                break;
            }
        }
    }
    let missing: Vec<String> = wanted.iter().filter(|w| !found.contains_key(**w)).map(|w| format!("`/{w}`")).collect();
    ensure!(missing.is_empty(), "`{}` has no file {}", path.display(), missing.join(", "));
    Ok(found)
}

/// Unpacks a package's files below `into`, as whoever runs this, but for what lies below one of the paths `without`.
pub fn unpack(path: &Path, into: &Path, without: &[&str]) -> Result<()> {
    fs::create_dir_all(into)?;
    let root = into.canonicalize().with_context(|| format!("opening the folder `{}`", into.display()))?;
    let mut tree = Tree { root, folders: HashMap::new() };
    each(path, without, |name, entry| tree.add(name, entry)).with_context(|| format!("unpacking `{}`", path.display()))
}

/// Appends a package's files to a tar, as root's, but for what lies below one of the paths `without`.
pub fn append(path: &Path, to: &mut tar::Builder<impl Write>, without: &[&str]) -> Result<()> {
    each(path, without, |name, mut entry| {
        let mut header = entry.header().clone();
        header.set_uid(0);
        header.set_gid(0);
        match entry.link_name()?.map(std::borrow::Cow::into_owned) {
            Some(target) => to.append_link(&mut header, name, target)?,
            None => to.append_data(&mut header, name, &mut entry)?,
        }
        Ok(())
    })
    .with_context(|| format!("unpacking `{}`", path.display()))
}

/// A package's entries but for its root, by their paths in the tree.
fn each(
    path: &Path,
    without: &[&str],
    mut visit: impl FnMut(&Path, tar::Entry<'_, Box<dyn Read>>) -> Result<()>,
) -> Result<()> {
    let mut tar = tar::Archive::new(member(path, "data.tar")?);
    for entry in tar.entries()? {
        let entry = entry?;
        let path = entry.path().context("reading a path")?.into_owned();
        let name = inside(&path).with_context(|| format!("the path `{}` leads out of the tree", path.display()))?;
        if !name.as_os_str().is_empty() && !without.iter().any(|folder| name.starts_with(folder)) {
            visit(&name, entry)?;
        }
    }
    Ok(())
}

/// The tree that a package is unpacked into.
struct Tree {
    root: PathBuf,
    /// Folders as packages name them, and where they really lie.
    folders: HashMap<PathBuf, PathBuf>,
}

impl Tree {
    fn add<R: Read>(&mut self, name: &Path, mut entry: tar::Entry<'_, R>) -> Result<()> {
        let Some(file_name) = name.file_name() else { return Ok(()) };
        let target = self.folder(name.parent().unwrap_or(Path::new("")))?.join(file_name);
        let what = || format!("writing `{}`", target.display());
        let mode = entry.header().mode().with_context(what)? & 0o1777;
        let there = std::fs::symlink_metadata(&target).ok();
        match entry.header().entry_type() {
            EntryType::Directory => {
                if !target.is_dir() {
                    std::fs::create_dir(&target).with_context(what)?;
                    std::fs::set_permissions(&target, Permissions::from_mode(mode | 0o700)).with_context(what)?;
                }
            }
            // As dpkg has it: a link to a folder does not replace a folder.
            EntryType::Symlink if there.as_ref().is_some_and(std::fs::Metadata::is_dir) => {}
            EntryType::Symlink => {
                let to = entry.link_name().with_context(what)?.context("a symbolic link without a target")?;
                clear(&target)?;
                std::os::unix::fs::symlink(to, &target).with_context(what)?;
            }
            EntryType::Link => {
                let to = entry.link_name().with_context(what)?.context("a hard link without a target")?;
                let Some(name) = inside(&to) else {
                    bail!("the hard link to `{}` leads out of the tree", to.display())
                };
                let from = self.folder(name.parent().unwrap_or(Path::new("")))?;
                let from = from.join(name.file_name().context("a hard link to the root")?);
                if from != target {
                    clear(&target)?;
                    std::fs::hard_link(from, &target).with_context(what)?;
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                let modified = Duration::from_secs(entry.header().mtime().with_context(what)?);
                clear(&target)?;
                let mut file =
                    File::options().write(true).create_new(true).mode(mode | 0o200).open(&target).with_context(what)?;
                io::copy(&mut entry, &mut file).with_context(what)?;
                // Not what the umask left of it.
                file.set_permissions(Permissions::from_mode(mode)).with_context(what)?;
                let modified = SystemTime::UNIX_EPOCH.checked_add(modified).context("a date after the end of time")?;
                file.set_modified(modified).with_context(what)?;
            }
            other => bail!(
                "`{}` is of a kind that packages do not have: {other:?}",
                String::from_utf8_lossy(&entry.path_bytes())
            ),
        }
        Ok(())
    }

    /// Where a folder really lies, links followed; it must be below the root, and is made where it is missing.
    fn folder(&mut self, name: &Path) -> Result<PathBuf> {
        if let Some(known) = self.folders.get(name) {
            return Ok(known.clone());
        }
        let wanted = self.root.join(name);
        if std::fs::symlink_metadata(&wanted).is_err()
            && let (Some(parent), Some(last)) = (name.parent(), name.file_name())
        {
            // Packages that leave out a folder's own entry exist.
            let made = self.folder(parent)?.join(last);
            if !made.is_dir() {
                std::fs::create_dir(&made).with_context(|| format!("creating the folder `{}`", made.display()))?;
            }
        }
        let real = wanted.canonicalize().with_context(|| format!("opening the folder `{}`", wanted.display()))?;
        ensure!(real.starts_with(&self.root), "the folder `/{}` leads out of the tree", name.display());
        self.folders.insert(name.to_owned(), real.clone());
        Ok(real)
    }
}

/// Makes room for a file or link. A folder is not cleared away: no package turns one into a file.
fn clear(target: &Path) -> Result<()> {
    match std::fs::remove_file(target) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("replacing `{}`", target.display()))
        }
        _ => Ok(()),
    }
}

/// A path of an archive without `./` or a leading slash; `None` where it climbs.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(inside)
}

/// The content of the first member `<stem>` or `<stem>.<compression>`.
fn member(path: &Path, stem: &str) -> Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(256 << 10, fs::open(path)?);
    let mut magic = [0; 8];
    file.read_exact(&mut magic).context("reading the archive's first bytes")?;
    ensure!(magic == MAGIC, "it is no .deb: it does not begin with `!<arch>`");
    loop {
        let mut header = [0; 60];
        match file.read_exact(&mut header) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => bail!("it has no member `{stem}`"),
            read => read.context("reading a member's header")?,
        }
        ensure!(header.ends_with(b"`\n"), "a member's header is broken");
        let field = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim_end().to_owned();
        let (name, size) = (field(0..16), field(48..58));
        let name = name.strip_suffix('/').unwrap_or(&name);
        let size: u64 = size.parse().ok().with_context(|| format!("a member's size is `{size}`"))?;
        if let Some(suffix) = name.strip_prefix(stem) {
            let content = file.take(size);
            return Ok(match suffix {
                "" => Box::new(content),
                ".zst" => Box::new(zstd::Decoder::new(content).context("starting zstd")?),
                ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(content)),
                ".gz" => Box::new(flate2::read::MultiGzDecoder::new(content)),
                _ => bail!("its member `{name}` is compressed in a way that castiron does not read"),
            });
        }
        let padded = i64::try_from(size + size % 2).context("a member's size is out of range")?;
        file.seek_relative(padded).context("passing over a member")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Entry {
        path: &'static str,
        kind: EntryType,
        link: &'static str,
        mode: u32,
        bytes: &'static [u8],
    }

    fn entry(path: &'static str, kind: EntryType, link: &'static str) -> Entry {
        Entry { path, kind, link, mode: 0o755, bytes: b"" }
    }

    fn file(path: &'static str, mode: u32, bytes: &'static [u8]) -> Entry {
        Entry { path, kind: EntryType::Regular, link: "", mode, bytes }
    }

    /// Writes the path into the header as it is: the tar crate refuses to write paths that climb.
    fn tar_of(entries: &[Entry]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for e in entries {
            let mut header = tar::Header::new_gnu();
            let name = &mut header.as_gnu_mut().expect("is GNU").name;
            name[..e.path.len()].copy_from_slice(e.path.as_bytes());
            header.set_entry_type(e.kind);
            header.set_mode(e.mode);
            header.set_mtime(1_700_000_000);
            header.set_size(e.bytes.len() as u64);
            if !e.link.is_empty() {
                let name = &mut header.as_gnu_mut().expect("is GNU").linkname;
                name[..e.link.len()].copy_from_slice(e.link.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, e.bytes).expect("appends");
        }
        tar.into_inner().expect("ends")
    }

    fn deb_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut deb = MAGIC.to_vec();
        for (name, bytes) in members {
            deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes());
            deb.extend(bytes);
            if bytes.len() % 2 == 1 {
                deb.push(b'\n');
            }
        }
        deb
    }

    fn package(data: &[Entry]) -> Vec<u8> {
        let control = tar_of(&[file("./control", 0o644, b"Package: hello\nVersion: 1\n")]);
        deb_of(&[
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.xz", xz(&control)),
            ("data.tar.zst", zstd::encode_all(&tar_of(data)[..], 1).expect("compresses")),
        ])
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        liblzma::read::XzEncoder::new(bytes, 1).read_to_end(&mut out).expect("compresses");
        out
    }

    fn on_disk(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hello.deb");
        std::fs::write(&path, bytes).expect("writes");
        (folder, path)
    }

    #[test]
    fn control_and_single_files_are_read() {
        let (_folder, deb) = on_disk(&package(&[file("./usr/lib/x", 0o644, b"x"), file("./usr/lib/y", 0o644, b"y")]));
        assert_eq!(control(&deb).expect("reads"), "Package: hello\nVersion: 1\n");
        let files = read_files(&deb, &["usr/lib/y"]).expect("reads");
        assert_eq!(files, BTreeMap::from([("usr/lib/y".to_owned(), b"y".to_vec())]));
        let error = read_files(&deb, &["usr/lib/y", "usr/lib/z"]).expect_err("is not there");
        assert!(error.to_string().ends_with("has no file `/usr/lib/z`"), "{error}");
    }

    #[test]
    fn a_package_becomes_a_part_of_a_tar() {
        let (_folder, deb) = on_disk(&package(&[
            entry("./", EntryType::Directory, ""),
            file("./usr/lib/a", 0o755, b"a"),
            entry("./usr/lib/b", EntryType::Link, "./usr/lib/a"),
            entry("./usr/lib/c", EntryType::Symlink, "a"),
            file("./usr/share/doc/d", 0o444, b"d"),
        ]));
        let mut tar = tar::Builder::new(Vec::new());
        append(&deb, &mut tar, &["usr/share/doc"]).expect("appends");
        let bytes = tar.into_inner().expect("ends");
        let mut found = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().expect("reads") {
            let mut entry = entry.expect("reads");
            let mut text = format!(
                "{} {:?} {:?} ",
                entry.path().expect("has one").display(),
                entry.header().entry_type(),
                entry.link_name().expect("reads")
            );
            entry.read_to_string(&mut text).expect("reads");
            found.push(text);
        }
        assert_eq!(
            found,
            ["usr/lib/a Regular None a", "usr/lib/b Link Some(\"./usr/lib/a\") ", "usr/lib/c Symlink Some(\"a\") "]
        );
    }

    #[test]
    fn a_tree_is_unpacked_through_merged_usr_links() {
        let (folder, deb) = on_disk(&package(&[
            entry("./", EntryType::Directory, ""),
            entry("./lib/", EntryType::Directory, ""),
            file("./lib/a", 0o4755, b"a"),
            entry("./lib/b", EntryType::Link, "./lib/a"),
            entry("./lib/c", EntryType::Symlink, "/etc/passwd"),
            file("./usr/share/doc/d", 0o444, b"d"),
        ]));
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("usr/lib")).expect("makes");
        std::os::unix::fs::symlink("usr/lib", tree.join("lib")).expect("links");
        // Twice: what is there is replaced.
        unpack(&deb, &tree, &[]).expect("unpacks");
        unpack(&deb, &tree, &[]).expect("unpacks again");
        assert!(tree.join("lib").is_symlink());
        let meta = std::fs::metadata(tree.join("usr/lib/b")).expect("is there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "no setuid bit");
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), 2);
        assert_eq!(std::os::unix::fs::MetadataExt::mtime(&meta), 1_700_000_000);
        assert_eq!(std::fs::read_link(tree.join("usr/lib/c")).expect("is a link"), Path::new("/etc/passwd"));
        assert_eq!(std::fs::read(tree.join("usr/share/doc/d")).expect("reads"), b"d");
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let (folder, deb) =
            on_disk(&package(&[file("./usr/share/doc/d", 0o444, b"d"), file("./usr/share/docs", 0o444, b"d")]));
        let tree = folder.path().join("tree");
        unpack(&deb, &tree, &["usr/share/doc"]).expect("unpacks");
        assert!(!tree.join("usr/share/doc").exists());
        assert!(tree.join("usr/share/docs").exists(), "a folder is left out, not what begins with its name");
    }

    #[test]
    fn nothing_leads_out_of_the_tree() {
        let climbing = [file("./../evil", 0o644, b"x")];
        let through_link = [entry("./out", EntryType::Symlink, "/tmp"), file("./out/evil", 0o644, b"x")];
        let relative = [entry("./out", EntryType::Symlink, ".."), file("./out/evil", 0o644, b"x")];
        let hard = [entry("./passwd", EntryType::Link, "../../etc/passwd")];
        for entries in [&climbing[..], &through_link[..], &relative[..], &hard[..]] {
            let (folder, deb) = on_disk(&package(entries));
            let error = unpack(&deb, &folder.path().join("tree"), &[]).expect_err("is refused");
            assert!(format!("{error:#}").contains("leads out of the tree"), "{error:#}");
            assert!(!folder.path().join("evil").exists());
        }
    }

    #[test]
    fn what_is_no_deb_says_so() {
        let cases: [(&[u8], &str); 3] = [
            (b"PK\x03\x04 something else", "it is no .deb"),
            (b"!<arch>\n", "it has no member `control.tar`"),
            (&deb_of(&[("control.tar.br", Vec::new())]), "compressed in a way"),
        ];
        for (bytes, expected) in cases {
            let (_folder, deb) = on_disk(bytes);
            let error = format!("{:#}", control(&deb).expect_err("is broken"));
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_broken_deb_never_panics(flips in prop::collection::vec((0_usize..4096, any::<u8>()), 1..8), cut in 0_usize..4096) {
            let mut bytes = deb_of(&[
                ("control.tar", tar_of(&[file("./control", 0o644, b"Package: hello\n")])),
                ("data.tar.gz", tar_of(&[file("./a", 0o644, b"a")])),
                ("data.tar", tar_of(&[file("./a/b", 0o644, b"a"), entry("./c", EntryType::Symlink, "a")])),
            ]);
            for (at, byte) in flips {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len().saturating_sub(cut % 2048));
            let (folder, deb) = on_disk(&bytes);
            let _ = control(&deb);
            let _ = read_files(&deb, &["a"]);
            let _ = unpack(&deb, &folder.path().join("tree"), &[]);
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600)) {
            let (_folder, deb) = on_disk(&[MAGIC, &noise].concat());
            let _ = control(&deb);
        }
    }
}
