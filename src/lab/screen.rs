//! Does a machine's screen show a text? Told from its pixels, whatever the font.
//!
//! In: a picture as QEMU's monitor dumps it (PPM, P6). Out: yes or no.
//!
//! Neither a BIOS in text mode nor UEFI's console hands out what it has drawn as characters in one way for both. But both
//! draw each character into a cell of fixed size, always with the same pixels. So a text stands where cells in a row are
//! equal exactly where its characters are equal, as in a cipher of letters. For a sentence of thirty letters no other text
//! of a boot loader has that pattern.

use anyhow::{Context as _, Result, ensure};

/// Width and height of a character: VGA's text mode as QEMU draws it (both widths), UEFI's console.
const CELLS: [(usize, usize); 3] = [(9, 16), (8, 16), (8, 19)];
const PIXEL: usize = 3;

/// What a screen shows.
pub struct Screen {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Screen {
    /// Reads a picture.
    pub fn parse(picture: &[u8]) -> Result<Self> {
        let mut fields = picture.splitn(4, u8::is_ascii_whitespace);
        let mut next = || fields.next().context("a picture of the screen breaks off in its head");
        ensure!(next()? == b"P6", "a picture of the screen is no PPM");
        let mut number = || -> Result<usize> {
            let text = std::str::from_utf8(next()?).context("reading the size of a picture of the screen")?;
            text.parse().context("reading the size of a picture of the screen")
        };
        let (width, height) = (number()?, number()?);
        let rest = next()?;
        let pixels = rest.strip_prefix(b"255\n").context("a picture of the screen has not 8 bits a colour")?;
        ensure!(
            Some(pixels.len()) == width.checked_mul(height).and_then(|n| n.checked_mul(PIXEL)),
            "a picture of the screen has not as many pixels as it says"
        );
        Ok(Self { width, height, pixels: pixels.to_vec() })
    }

    /// Whether `text` stands somewhere, in one line.
    pub fn shows(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        // For each character the place of its first occurrence: the pattern.
        let first: Vec<usize> = chars.iter().map(|c| chars.iter().position(|d| d == c).unwrap_or_default()).collect();
        CELLS.iter().any(|&(wide, high)| {
            let columns = (self.width + 1).saturating_sub(wide * chars.len());
            let rows = (self.height + 1).saturating_sub(high);
            (0..rows).any(|y| (0..columns).any(|x| self.fits(&first, (x, y), (wide, high))))
        })
    }

    fn fits(&self, first: &[usize], (x, y): (usize, usize), (wide, high): (usize, usize)) -> bool {
        let same = |a: usize, b: usize| {
            (y..y + high).all(|line| {
                let part = |n: usize| {
                    let start = (line * self.width + x + n * wide) * PIXEL;
                    &self.pixels[start..start + wide * PIXEL]
                };
                part(a) == part(b)
            })
        };
        (0..first.len()).all(|n| {
            // Equal to its first occurrence, and different from all other characters before.
            (0..n).filter(|&m| first[m] == m).all(|m| same(m, n) == (first[n] == m))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen of 640 × 400 with a text in it, in a font where a character's pixels are its code's bits.
    fn picture(text: &str) -> Vec<u8> {
        let mut pixels = vec![0; 640 * 400 * PIXEL];
        for (n, c) in text.bytes().enumerate() {
            for bit in (0..8).filter(|bit| c != b' ' && c >> bit & 1 == 1) {
                let at = ((35 * 640) + 24 + n * 8 + bit) * PIXEL;
                pixels[at..at + PIXEL].fill(0xff);
            }
        }
        [b"P6\n640 400\n255\n".as_slice(), &pixels].concat()
    }

    #[test]
    fn a_text_is_found_by_its_pattern_and_no_other_is() {
        let screen = Screen::parse(&picture("castiron: no slot is left to boot")).expect("reads");
        assert!(screen.shows("castiron: no slot is left to boot"));
        assert!(screen.shows("no slot is left"));
        assert!(!screen.shows("castiron: one slot is left to boot"));
        assert!(!screen.shows("castiron: no slot is left to root!"));
    }

    #[test]
    fn a_blank_screen_shows_nothing_and_a_broken_picture_is_an_error() {
        assert!(!Screen::parse(&picture("")).expect("reads").shows("no slot"));
        let whole = picture("x");
        for broken in [&whole[..whole.len() - 1], b"", b"P5\n1 1\n255\n...", b"P6\n1 x\n255\n..."] {
            assert!(Screen::parse(broken).is_err());
        }
    }
}
