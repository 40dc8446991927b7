//! Writing a seed into the region of a carrier, in place, and taking it out again.
//!
//! In: a volume, or nothing. Out: the same file with a stamped or an unstamped region.
//!
//! Only the region is ever read or written, and of it only the blocks that differ, so the time does not depend on the
//! carrier's size. The order is what makes a crash harmless: first the header of an unstamped region, then the room, then
//! the header, each on the disk before the next is begun. [`crate::region`] says what a reader makes of the states between.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use crate::carrier::region::Region;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::region::{self, HEADER, Header, Payload};

/// What is compared and written at a time.
const BLOCK: usize = 64 << 10;

/// Where a region's bytes go.
pub trait Place {
    /// Writes `bytes` at byte `offset` of the region.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Waits until all that was written is on the disk.
    fn sync(&self) -> Result<()>;
}

impl Place for Region<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        Region::write(self, offset, bytes)
    }

    fn sync(&self) -> Result<()> {
        Region::sync(self)
    }
}

/// Makes a region with these bytes hold the payload, or nothing.
pub fn put(place: &impl Place, current: &[u8], payload: Option<&Payload<'_>>) -> Result<()> {
    let room = current.len().checked_sub(HEADER).context("the region has no room for its header")?;
    let wanted = match payload {
        Some(payload) => region::stamped(current.len(), payload)?,
        None => Zeroizing::new(region::unstamped(current.len())),
    };
    let unstamped = Header { room: room as u64, stamp: None }.to_bytes();
    if current[room..] != unstamped {
        place.write(room as u64, &unstamped)?;
        place.sync()?;
    }
    for at in (0..room).step_by(BLOCK) {
        let block = at..room.min(at + BLOCK);
        if current[block.clone()] != wanted[block.clone()] {
            place.write(at as u64, &wanted[block])?;
        }
    }
    // Also where no block differs: an earlier run may have ended before they were on the disk.
    place.sync()?;
    if wanted[room..] != unstamped {
        place.write(room as u64, &wanted[room..])?;
        place.sync()?;
    }
    Ok(())
}

/// The file that is stamped: the carrier itself, or a copy that takes its name once it is whole.
pub struct Target {
    file: File,
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl Target {
    /// Opens a carrier for changing it, and keeps other stamps of it waiting outside.
    pub fn in_place(path: &Path) -> Result<Self> {
        let file = fs::open_rw(path)?;
        file.try_lock().map_err(|_| {
            Failure::new(Kind::Input, format!("`{}` is being stamped by somebody else", path.display()))
        })?;
        Ok(Self { file, temporary: None, path: path.to_owned() })
    }

    /// Copies a carrier: blocks are shared where the filesystem can, holes stay holes elsewhere.
    pub fn copy(from: &Path, to: &Path) -> Result<Self> {
        let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().with_context(|| format!("`{}` is no name of a file", to.display()))?;
        let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = fs::create_private(&temporary)?;
        let target = Self { file, temporary: Some(temporary), path: to.to_owned() };
        let source = fs::open(from)?;
        let copied = match rustix::fs::ioctl_ficlone(&target.file, &source) {
            Ok(()) => Ok(()),
            Err(_) => fs::copy_sparse(&source, &target.file),
        };
        copied.with_context(|| format!("copying `{}` to `{}`", from.display(), to.display()))?;
        Ok(target)
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes reading away from all but the owner: a stamped carrier holds secrets. True where somebody else could.
    pub fn make_private(&self) -> Result<bool> {
        let mode = self.file.metadata().context("reading who may read the carrier")?.permissions().mode() & 0o777;
        if mode == mode & 0o700 {
            return Ok(false);
        }
        self.file.set_permissions(Permissions::from_mode(mode & 0o700)).with_context(|| {
            format!("making `{}` readable by its owner alone, since its seed holds secrets", self.path.display())
        })?;
        Ok(true)
    }

    /// Gives a copy its name.
    pub fn finish(mut self) -> Result<()> {
        if let Some(temporary) = self.temporary.take() {
            let renamed = self
                .file
                .sync_all()
                .with_context(|| format!("syncing `{}`", self.path.display()))
                .and_then(|()| fs::rename(&temporary, &self.path));
            if renamed.is_err() {
                let _ = fs::remove(&temporary);
            }
            renamed?;
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::region::{SiteId, State, read};

    const SIZE: usize = 256 << 10;

    enum Act {
        Write(u64, Vec<u8>),
        Sync,
    }

    #[derive(Default)]
    struct Log(RefCell<Vec<Act>>);

    impl Place for Log {
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            self.0.borrow_mut().push(Act::Write(offset, bytes.to_vec()));
            Ok(())
        }

        fn sync(&self) -> Result<()> {
            self.0.borrow_mut().push(Act::Sync);
            Ok(())
        }
    }

    fn apply(region: &mut [u8], act: &Act) {
        if let Act::Write(at, bytes) = act {
            region[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn payload(volume: &[u8], serial: u64) -> Payload<'_> {
        Payload { volume, site: SiteId::of_key(&[1; 32]), serial, time: 5 }
    }

    fn after(before: &[u8], wanted: Option<&Payload<'_>>) -> Vec<u8> {
        let (log, mut region) = (Log::default(), before.to_vec());
        put(&log, before, wanted).expect("fits");
        for act in log.0.into_inner() {
            apply(&mut region, &act);
        }
        region
    }

    /// What is on the disk after `put`, and every state that a power cut may leave: all up to a sync, and any part of
    /// the writes since, each whole, half, or not at all.
    fn states(before: &[u8], wanted: Option<&Payload<'_>>) -> (Vec<u8>, Vec<Vec<u8>>) {
        let log = Log::default();
        put(&log, before, wanted).expect("fits");
        let (mut safe, mut cut, mut open): (_, Vec<Vec<u8>>, Vec<Act>) =
            (before.to_vec(), vec![before.to_vec()], vec![]);
        for act in log.0.into_inner() {
            if let Act::Write(..) = act {
                open.push(act);
                for choice in 0..3_usize.pow(open.len() as u32) {
                    let mut state = safe.clone();
                    for (i, act) in open.iter().enumerate() {
                        let Act::Write(at, bytes) = act else { continue };
                        let length = bytes.len() * (choice / 3_usize.pow(i as u32) % 3) / 2;
                        apply(&mut state, &Act::Write(*at, bytes[..length].to_vec()));
                    }
                    cut.push(state);
                }
            } else {
                for act in open.drain(..) {
                    apply(&mut safe, &act);
                }
            }
        }
        assert!(open.is_empty(), "the last write was not synced");
        (safe, cut)
    }

    #[test]
    fn a_cut_leaves_the_old_stamp_or_a_region_that_no_reader_takes_for_stamped() {
        let (old, new) = (vec![7; 150_000], (1..=u8::MAX).cycle().take(200_000).collect::<Vec<u8>>());
        let release = region::unstamped(SIZE);
        let (first, cut) = states(&release, Some(&payload(&old, 1)));
        assert!(matches!(read(&first), Ok(State::Stamped(stamp, bytes)) if stamp.serial == 1 && bytes == old));
        for state in cut {
            let whole = state == first;
            assert!(whole || !matches!(read(&state), Ok(State::Stamped(..))));
        }
        let (second, cut) = states(&first, Some(&payload(&new, 2)));
        assert!(matches!(read(&second), Ok(State::Stamped(stamp, bytes)) if stamp.serial == 2 && bytes == new));
        for state in cut {
            let known = state == first || state == second;
            assert!(known || !matches!(read(&state), Ok(State::Stamped(..))));
            // Whatever was left, the next run makes it right, and taking it out gives the release's bytes.
            assert_eq!(after(&state, Some(&payload(&new, 2))), second);
            assert_eq!(after(&state, None), release);
        }
    }
}
