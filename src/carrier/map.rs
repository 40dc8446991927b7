//! A raw disk becomes a map over the files of a medium, so that bytes which it has already are not on it twice.
//!
//! In: raw disks, files of the medium. Out: [`Segment`]s and the file [`DATA`] of what no other file has. Runs: nothing.
//!
//! Content-defined chunks (the crate `fastcdc`): equal runs of bytes are found wherever they lie, in the root images of
//! other roles and in the kernel inside the ESP alike. Chunks that follow each other on both sides become one segment.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use fastcdc::v2020::StreamCDC;

use crate::context::Context;
use crate::digest::Sha256;
use crate::fs;
use crate::medium::{SEGMENT_MAX, Segment};

/// The file of all bytes that no other file of the medium has.
pub const DATA: &str = "castiron/data";

/// Least, mean and greatest bytes of a chunk: a squashfs block is about 50 KiB long.
const CHUNK: (usize, usize, usize) = (4 << 10, 16 << 10, 64 << 10);
/// Zeros of this length are not written: an ESP's and a partition's unused room.
const ZEROS: usize = 4 << 10;

/// The bytes of the medium so far.
pub struct Library<'a> {
    ctx: &'a Context,
    files: Vec<String>,
    /// Digest of a chunk → file, place in it.
    chunks: HashMap<Sha256, (usize, u64)>,
    data: BufWriter<File>,
    data_len: u64,
}

impl<'a> Library<'a> {
    /// An empty one; what is new goes to the file `data`.
    pub fn new(ctx: &'a Context, data: &Path) -> Result<Self> {
        let files = vec![DATA.to_owned()];
        Ok(Self { ctx, files, chunks: HashMap::new(), data: BufWriter::new(fs::create(data)?), data_len: 0 })
    }

    /// Makes a file's bytes known, under the name that it has on the medium.
    pub fn add(&mut self, name: &str, path: &Path) -> Result<()> {
        let index = self.files.len();
        self.files.push(name.to_owned());
        for chunk in chunks(fs::open(path)?) {
            self.ctx.check_interrupt()?;
            let chunk = chunk.with_context(|| format!("reading `{}`", path.display()))?;
            self.chunks.entry(Sha256::of(&chunk.data)).or_insert((index, chunk.offset));
        }
        Ok(())
    }

    /// The map of a raw disk. What of it is new is added to the data.
    pub fn map(&mut self, disk: &Path) -> Result<Vec<Segment>> {
        let reading = || format!("reading `{}`", disk.display());
        let mut pieces = Vec::new();
        let mut file = fs::open(disk)?;
        for (start, end) in data_of(&file).with_context(reading)? {
            file.seek(SeekFrom::Start(start)).with_context(reading)?;
            for chunk in chunks((&file).take(end - start)) {
                self.ctx.check_interrupt()?;
                let chunk = chunk.with_context(reading)?;
                let (file, from) = self.place(&chunk.data)?;
                pieces.push(Piece { at: start + chunk.offset, len: chunk.length as u64, file, from });
            }
        }
        self.join(pieces, disk)
    }

    /// Ends the data, and returns its length in bytes.
    pub fn finish(mut self) -> Result<u64> {
        self.data.flush().context("writing the medium's data")?;
        Ok(self.data_len)
    }

    /// Where the medium has these bytes; where it has them not, it will.
    fn place(&mut self, bytes: &[u8]) -> Result<(usize, u64)> {
        let digest = Sha256::of(bytes);
        if let Some(place) = self.chunks.get(&digest) {
            return Ok(*place);
        }
        let place = (0, self.data_len);
        self.data.write_all(bytes).context("writing the medium's data")?;
        self.data_len += bytes.len() as u64;
        self.chunks.insert(digest, place);
        Ok(place)
    }

    /// Pieces that follow each other on the disk and in the file become one segment, whose digest is of the disk's bytes.
    fn join(&self, pieces: Vec<Piece>, disk: &Path) -> Result<Vec<Segment>> {
        let mut joined: Vec<Piece> = Vec::new();
        for piece in pieces {
            match joined.last_mut() {
                Some(last) if last.continues_in(&piece) => last.len += piece.len,
                _ => joined.push(piece),
            }
        }
        let mut file = fs::open(disk)?;
        let mut buffer = vec![0; SEGMENT_MAX as usize];
        let mut segments = Vec::new();
        for piece in joined {
            let bytes = &mut buffer[..piece.len as usize];
            file.seek(SeekFrom::Start(piece.at))
                .and_then(|_| file.read_exact(bytes))
                .with_context(|| format!("reading `{}`", disk.display()))?;
            let name = self.files[piece.file].clone();
            let sha256 = Sha256::of(bytes);
            segments.push(Segment { at: piece.at, len: piece.len, file: name, from: piece.from, sha256 });
        }
        Ok(segments)
    }
}

struct Piece {
    at: u64,
    len: u64,
    file: usize,
    from: u64,
}

impl Piece {
    fn continues_in(&self, next: &Self) -> bool {
        self.at + self.len == next.at
            && self.file == next.file
            && self.from + self.len == next.from
            && self.len + next.len <= SEGMENT_MAX
    }
}

fn chunks<R: Read>(from: R) -> StreamCDC<R> {
    StreamCDC::new(from, CHUNK.0, CHUNK.1, CHUNK.2)
}

/// The stretches of a sparse file that are not zero, in whole blocks of [`ZEROS`]. What the filesystem calls a hole only
/// says where not to look: which zeros it keeps as holes is its own affair, and no part of a release.
fn data_of(file: &File) -> Result<Vec<(u64, u64)>> {
    let size = file.metadata()?.len();
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while let Some(found) = fs::next_data(file, at)? {
        let end = found.end;
        at = found.start - found.start % ZEROS as u64;
        let mut reader = file;
        reader.seek(SeekFrom::Start(at))?;
        while at < end {
            let want = buffer.len().min((size - at) as usize);
            reader.read_exact(&mut buffer[..want])?;
            for block in buffer[..want].chunks(ZEROS) {
                let next = at + block.len() as u64;
                if block.iter().any(|byte| *byte != 0) {
                    match stretches.last_mut() {
                        Some((_, last)) if *last == at => *last = next,
                        _ => stretches.push((at, next)),
                    }
                }
                at = next;
            }
        }
    }
    Ok(stretches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::{Ui, Verbosity};
    use std::os::unix::fs::FileExt as _;
    use std::path::PathBuf;

    /// Bytes that look like nothing else.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(len)
        .collect()
    }

    /// A sparse disk of 64 MiB with these bytes at these places.
    fn disk(folder: &Path, name: &str, parts: &[(u64, &[u8])]) -> PathBuf {
        let path = folder.join(name);
        let file = File::create(&path).expect("creates");
        file.set_len(64 << 20).expect("sizes");
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).expect("writes");
        }
        path
    }

    /// What comes out when an installer follows a map.
    fn follow(map: &[Segment], folder: &Path, names: &[(&str, &Path)]) -> Vec<u8> {
        let mut disk = vec![0; 64 << 20];
        for segment in map {
            let path = names
                .iter()
                .find(|(n, _)| *n == segment.file)
                .map_or_else(|| folder.join("data"), |(_, p)| (*p).into());
            let bytes = &mut disk[segment.at as usize..][..segment.len as usize];
            File::open(path).expect("opens").read_exact_at(bytes, segment.from).expect("reads");
            assert_eq!(Sha256::of(bytes), segment.sha256);
        }
        disk
    }

    #[test]
    fn disks_come_back_and_what_they_share_is_there_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = Context::new(Ui::new(false, Verbosity::Quiet), folder.path().into(), folder.path().into());
        let (root, own) = (noise(1, 9 << 20), noise(2, 1 << 20));
        let live = folder.path().join("root.img");
        std::fs::write(&live, &root).expect("writes");
        // The second has the first's root with something in the middle of it, and both have it where the medium has it too.
        let mut changed = root.clone();
        changed.splice(4_000_000..4_000_100, noise(3, 5000));
        let one = disk(folder.path(), "one", &[(0, &own), (20 << 20, &root)]);
        let two = disk(folder.path(), "two", &[(0, &own), (20 << 20, &changed)]);

        let mut library = Library::new(&context, &folder.path().join("data")).expect("begins");
        library.add("live/root.img", &live).expect("adds");
        let maps = [library.map(&one).expect("maps"), library.map(&two).expect("maps")];
        let data = library.finish().expect("ends");
        assert!(data < (own.len() + 300_000) as u64, "{data} bytes are new");
        for (map, disk) in maps.iter().zip([one, two]) {
            let found = follow(map, folder.path(), &[("live/root.img", &live)]);
            assert!(found == std::fs::read(disk).expect("reads"), "the disk is another");
        }
    }

    #[test]
    fn holes_and_zeros_are_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let sparse = disk(folder.path(), "sparse", &[(1 << 20, b"a"), ((64 << 20) - 1, b"b")]);
        let full = folder.path().join("full");
        std::fs::write(&full, std::fs::read(&sparse).expect("reads")).expect("writes");
        let stretches = |path: &Path| data_of(&File::open(path).expect("opens")).expect("reads");
        let expected = [(1 << 20, (1 << 20) + 4096), ((64 << 20) - 4096, 64 << 20)];
        assert_eq!(stretches(&sparse), expected);
        assert_eq!(stretches(&full), expected);
    }
}
