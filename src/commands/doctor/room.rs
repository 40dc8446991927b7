//! Room: on the disks of the store and of the releases, and in memory.

use std::path::Path;

use anyhow::{Context as _, Result};
use indicatif::HumanBytes;

use super::Finding;
use crate::context::Context;
use crate::fs;

/// Below this nothing can be built.
const LEAST: u64 = 1 << 30;
/// The store of four roles: packages, tools tree, and the results of every stage twice, before and after a change.
const STORE: u64 = 6 << 30;
/// A release of four roles, while the disk images and their compressed copies are written.
const OUTPUT: u64 = 3 << 30;
/// Trees are installed in a tmpfs.
const MEMORY: u64 = 2 << 30;

/// The store's folder: written to, and its room.
pub fn store(ctx: &Context) -> Finding {
    let tried = fs::create_dir_all(&ctx.store).and_then(|()| writable(&ctx.store));
    room("store", &ctx.store, tried, STORE, "--store DIR")
}

/// The folder of releases, or the one above it that is there already: written to, and its room.
pub fn output(folder: &Path) -> Finding {
    let there = folder.ancestors().find(|f| f.exists()).unwrap_or(folder);
    room("output", there, writable(there), OUTPUT, "--output DIR")
}

fn writable(folder: &Path) -> Result<u64> {
    tempfile::tempfile_in(folder).with_context(|| format!("writing into `{}`", folder.display()))?;
    let stat = nix::sys::statvfs::statvfs(folder).with_context(|| format!("looking at `{}`", folder.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

fn room(check: &'static str, folder: &Path, tried: Result<u64>, wanted: u64, option: &str) -> Finding {
    let free = match tried {
        Ok(free) => free,
        Err(error) => {
            return Finding::missing(check, format!("{error:#}"), format!("name another folder with `{option}`"));
        }
    };
    let found = format!("`{}` has {} free", folder.display(), HumanBytes(free));
    let mend = format!("free some space, or name a folder on another disk with `{option}`");
    if free < LEAST {
        Finding::missing(check, format!("{found}, {} are the least", HumanBytes(LEAST)), mend)
    } else if free < wanted {
        Finding::warning(check, format!("{found}, four roles take about {}", HumanBytes(wanted)), mend)
    } else {
        Finding::ok(check, found)
    }
}

/// Memory and swap, as far as programs may still have it.
pub fn memory() -> Finding {
    match fs::read_to_string(Path::new("/proc/meminfo")) {
        Ok(text) => judge(&text),
        Err(error) => Finding::missing("memory", format!("{error:#}"), "mount /proc"),
    }
}

fn judge(meminfo: &str) -> Finding {
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) << 10
    };
    let (available, swap) = (field("MemAvailable"), field("SwapFree"));
    let all = field("MemTotal") + field("SwapTotal");
    let found = format!("{} available, and {} of swap", HumanBytes(available), HumanBytes(swap));
    let need = format!("trees are installed in memory, about {} of it", HumanBytes(MEMORY));
    if all < MEMORY {
        Finding::missing("memory", format!("{found}; {need}"), "add memory or swap")
    } else if available + swap < MEMORY {
        Finding::warning("memory", format!("{found}; {need}"), "end some programs, or add swap")
    } else {
        Finding::ok("memory", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn little_memory_is_a_warning_and_no_memory_is_missing() {
        let gib = 1 << 20;
        let state = |total: u64, available: u64, swap: u64| {
            judge(&format!(
                "MemTotal: {} kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: {} kB\n",
                total * gib,
                available * gib,
                swap * gib,
                swap * gib
            ))
            .state
        };
        assert_eq!(state(8, 4, 0), State::Ok);
        assert_eq!(state(4, 1, 1), State::Ok, "swap counts");
        assert_eq!(state(4, 1, 0), State::Warning);
        assert_eq!(state(1, 1, 0), State::Missing);
    }

    #[test]
    fn room_is_judged_by_what_a_build_takes() {
        let state = |free| room("store", Path::new("/x"), Ok(free), STORE, "--store DIR").state;
        assert_eq!([state(7 << 30), state(2 << 30), state(1 << 20)], [State::Ok, State::Warning, State::Missing]);
    }
}
