//! Whether the parts of the disk image fit into it, and a hash tree into its partition.

use super::set::Written;
use super::value::Size;
use crate::diagnostic::Diagnostic;
use crate::document::At;

/// Partitions start and end at whole MiB.
const ALIGNMENT: u64 = 1 << 20;

/// A partition table at each end and the BIOS boot partition, one MiB each.
const OVERHEAD: u64 = 3 * ALIGNMENT;

/// One size, and the profile of the chain that gives it.
type Given<'a> = (&'a Written, &'static str, &'a At<Size>);

/// Tries the sizes that hold at the end of a chain, if its last profile has changed one of them.
pub(super) fn check(chain: &[&Written], problems: &mut Vec<Diagnostic>) {
    let Some(last) = chain.last().filter(|_| !chain.iter().any(|w| w.cut.contains("image"))) else { return };
    let given = |key: &str| -> Option<Given<'_>> {
        chain.iter().rev().find_map(|written| {
            let mut sizes = written.file.sizes().into_iter();
            sizes.find_map(|(name, size)| Some((*written, name, size.filter(|_| name == key)?)))
        })
    };
    let news = |sizes: &[Given<'_>]| sizes.iter().any(|(written, ..)| written.name == last.name);
    let (size, slot, verity, esp) = (given("size"), given("slot"), given("verity"), given("esp"));
    if let (Some(slot), Some(verity)) = (slot, verity)
        && news(&[verity, slot])
    {
        let need = Size(hash_tree(slot.2.value.0));
        if need > verity.2.value {
            let message = format!("the hash tree of a slot of {} takes {need}", slot.2.value);
            problems.push(at(message, &[verity, slot], last).help(format!("write `verity = \"{need}\"` or more")));
        }
    }
    if let (Some(size), Some(slot), Some(verity), Some(esp)) = (size, slot, verity, esp)
        && news(&[size, slot, verity, esp])
    {
        let bytes = |given: Given<'_>| given.2.value.0.next_multiple_of(ALIGNMENT);
        let need = Size(2 * (bytes(slot) + bytes(verity)) + bytes(esp) + OVERHEAD);
        if need > size.2.value {
            let [slot_text, verity_text, esp_text] = [slot, verity, esp].map(|given| &given.2.text);
            let message = format!(
                "two slots do not fit: 2 × ({slot_text} + {verity_text}) + {esp_text} + {} = {need}",
                Size(OVERHEAD)
            );
            let help = format!("write `size = \"{need}\"` or more, or smaller slots; what is left becomes `/var`");
            problems.push(at(message, &[size, slot, verity, esp], last).help(help));
        }
    }
}

/// A problem of several sizes, shown first at one that `last` gives.
fn at(message: String, sizes: &[Given<'_>], last: &Written) -> Diagnostic {
    let mut sizes = sizes.to_vec();
    sizes.sort_by_key(|(written, ..)| written.name != last.name);
    let (written, _, size) = sizes[0];
    sizes[1..]
        .iter()
        .fold(Diagnostic::new(message, &written.source, size.span.clone()), |problem, (written, key, size)| {
            problem.and(&written.source, size.span.clone(), format!("with this {key}"))
        })
}

/// Bytes of the dm-verity hash tree over `data` bytes: SHA-256 over blocks of 4 KiB, and a block for the superblock.
fn hash_tree(data: u64) -> u64 {
    const BLOCK: u64 = 4096;
    const HASHES: u64 = BLOCK / 32;
    let mut blocks = data.div_ceil(BLOCK);
    let mut tree = 1;
    while blocks > 1 {
        blocks = blocks.div_ceil(HASHES);
        tree += blocks;
    }
    (tree * BLOCK).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_trees_as_veritysetup_makes_them() {
        // 1 GiB: 262144 blocks → 2048 + 16 + 1, and the superblock.
        assert_eq!(hash_tree(1 << 30), (2066_u64 * 4096).next_multiple_of(ALIGNMENT));
        assert_eq!(hash_tree(4096), ALIGNMENT);
        assert!(hash_tree(1 << 60) > (1 << 60) / 129);
    }
}
