//! The door to files: `std::fs` whose errors name the path, and writes that are whole or absent.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening `{}`", path.display()))
}

/// Creates or empties a file for writing.
pub fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("creating `{}`", path.display()))
}

/// Creates or empties a file that its owner alone may read.
pub fn create_private(path: &Path) -> Result<File> {
    let creating = || format!("creating `{}`", path.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path).with_context(creating)?;
    // The file may have been there, with another mode.
    file.set_permissions(Permissions::from_mode(0o600)).with_context(creating)?;
    Ok(file)
}

/// Opens an existing file for reading and writing.
pub fn open_rw(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("opening `{}`", path.display()))
}

/// Reads a whole file of bytes. For small files only.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading `{}`", path.display()))
}

/// Reads a whole file of UTF-8. For small files only.
pub fn read_to_string(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))
}

/// Makes a folder and those above it.
pub fn create_dir_all(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("creating the folder `{}`", path.display()))
}

/// Removes a file or a whole folder; one that is not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Renames a file or folder over its final name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("renaming `{}` to `{}`", from.display(), to.display()))
}

/// The entries of a folder, sorted by name.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading the folder `{}`", path.display());
    let mut entries = std::fs::read_dir(path)
        .with_context(reading)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .with_context(reading)?;
    entries.sort();
    Ok(entries)
}

/// The first stretch of a sparse file at or behind byte `at` that is no hole; none where only a hole follows. What a filesystem
/// keeps as a hole is its own affair: zeros may be in the stretch, too. One that knows no holes has a single stretch.
pub fn next_data(file: &File, at: u64) -> Result<Option<Range<u64>>> {
    let looking = "looking for the holes of a sparse file";
    let start = match lseek64(file, at.cast_signed(), Whence::SeekData) {
        Ok(start) => start.cast_unsigned(),
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL) => {
            let end = file.metadata().context(looking)?.len();
            return Ok((at < end).then_some(at..end));
        }
        Err(error) => return Err(error).context(looking),
    };
    // There is a hole at every file's end.
    let end = lseek64(file, start.cast_signed(), Whence::SeekHole).context(looking)?;
    Ok(Some(start..end.cast_unsigned()))
}

/// Copies an open file into an empty one; holes stay holes.
pub fn copy_sparse(from: &File, to: &File) -> Result<()> {
    to.set_len(from.metadata()?.len())?;
    let (mut reader, mut writer) = (from, to);
    let mut at = 0;
    while let Some(data) = next_data(from, at)? {
        reader.seek(SeekFrom::Start(data.start))?;
        writer.seek(SeekFrom::Start(data.start))?;
        io::copy(&mut reader.take(data.end - data.start), &mut writer)?;
        at = data.end;
    }
    Ok(())
}

/// Length of a file in bytes.
pub fn len(path: &Path) -> Result<u64> {
    let meta = std::fs::metadata(path).with_context(|| format!("reading the size of `{}`", path.display()))?;
    Ok(meta.len())
}

/// Writes a file so that its name shows either the old content or all of the new, power cuts included:
/// temporary neighbour, fsync, rename, fsync of the folder.
pub fn write_atomic(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_whole(path, content.as_ref(), create)
}

/// The same for a file that its owner alone may read.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_whole(path, content.as_ref(), create_private)
}

/// Writes a file where it lies, in one write: what the kernel's filesystems of variables want.
pub fn write_at_once(path: &Path, content: &[u8]) -> Result<()> {
    let writing = || format!("writing `{}`", path.display());
    let mut file = File::options().write(true).create(true).truncate(false).open(path).with_context(writing)?;
    let written = file.write(content).with_context(writing)?;
    ensure!(written == content.len(), "writing `{}`: {written} of {} bytes were taken", path.display(), content.len());
    Ok(())
}

fn write_whole(path: &Path, content: &[u8], create: fn(&Path) -> Result<File>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = create(&temporary)?;
        file.write_all(content).with_context(|| format!("writing `{}`", path.display()))?;
        file.sync_all().with_context(|| format!("syncing `{}`", path.display()))?;
        rename(&temporary, path)?;
        sync(folder)
    })();
    if written.is_err() {
        let _ = remove(&temporary);
    }
    written
}

/// Flushes a file or folder to its disk.
pub fn sync(path: &Path) -> Result<()> {
    open(path)?.sync_all().with_context(|| format!("syncing `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path() {
        let error = read(Path::new("/no/such/file")).expect_err("is not there");
        assert_eq!(error.to_string(), "reading `/no/such/file`");
    }

    #[test]
    fn an_atomic_write_leaves_no_neighbour() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sub/lock");
        write_atomic(&path, "one").expect("writes");
        write_atomic(&path, "two").expect("overwrites");
        assert_eq!(read_to_string(&path).expect("reads"), "two");
        assert_eq!(list(path.parent().expect("has one")).expect("lists"), [path]);
    }
}
