//! Words of closed sets.

use crate::diagnostic::{literal, suggest};
use crate::document::{Value, Wrong};

/// A word of a closed set.
macro_rules! one_of {
    ($(#[$doc:meta])* $name:ident, $format:literal, $pattern:literal, { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $text)] $word,)+
        }

        impl Value for $name {
            const FORMAT: &'static str = $format;
            const PATTERN: &'static str = $pattern;
            const EXAMPLES: &'static [&'static str] = &[$($text),+];

            fn parse(text: &str) -> Result<Self, Wrong> {
                match text {
                    $($text => Ok(Self::$word),)+
                    _ => {
                        let words = Self::EXAMPLES.iter().map(|w| literal(w)).collect::<Vec<_>>().join(", ");
                        let message = format!("{} is none of {words}", literal(text));
                        let near = suggest(text, Self::EXAMPLES.iter().copied()).filter(|h| h.starts_with("the nearest"));
                        Err(Wrong { message, help: near })
                    }
                }
            }
        }
    };
}

one_of! {
    /// What the installer does with a disk that holds somebody else's data.
    ForeignData, "foreign-data", "^(stop|wipe)$", {
        /// Nothing is written; the machine says what it found.
        Stop = "stop",
        /// It is overwritten.
        Wipe = "wipe",
    }
}

one_of! {
    /// What a machine does when it has been installed. Not kexec: past the firmware there is no Secure Boot, and the kernel's
    /// lockdown refuses a loader of our own.
    After, "after-install", "^(poweroff|reboot)$", {
        /// It switches itself off.
        Poweroff = "poweroff",
        /// It starts anew through its firmware.
        Reboot = "reboot",
    }
}

one_of! {
    /// How a bond uses its links.
    BondMode, "bond-mode", "^(balance-rr|active-backup|balance-xor|broadcast|802\\.3ad|balance-tlb|balance-alb)$", {
        /// In turn.
        BalanceRr = "balance-rr",
        /// One at a time.
        ActiveBackup = "active-backup",
        /// By a hash.
        BalanceXor = "balance-xor",
        /// All at once.
        Broadcast = "broadcast",
        /// LACP: the switch must know.
        Lacp = "802.3ad",
        /// By load, sending.
        BalanceTlb = "balance-tlb",
        /// By load, both ways.
        BalanceAlb = "balance-alb",
    }
}

one_of! {
    /// How often LACP speaks.
    LacpRate, "lacp-rate", "^(slow|fast)$", {
        /// Every 30 s.
        Slow = "slow",
        /// Every second.
        Fast = "fast",
    }
}

one_of! {
    /// What a bond's hash is made of.
    HashPolicy, "transmit-hash-policy", "^(layer2|layer3\\+4|layer2\\+3|encap2\\+3|encap3\\+4)$", {
        /// MAC addresses.
        Layer2 = "layer2",
        /// IP addresses and ports.
        Layer34 = "layer3+4",
        /// MAC and IP addresses.
        Layer23 = "layer2+3",
        /// As `layer2+3`, within a tunnel.
        Encap23 = "encap2+3",
        /// As `layer3+4`, within a tunnel.
        Encap34 = "encap3+4",
    }
}
