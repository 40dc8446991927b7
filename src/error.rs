//! What an error means to whoever called castiron: its kind (hence the exit code) and how to go on.
//!
//! Bodies use `anyhow`; a [`Failure`] is put into the chain where the kind is known or a hint helps. The kinds
//! are few on purpose: scripts branch on "my input is wrong" or "the network is gone", hardly on more.

use std::fmt;

/// The kinds of failure and their exit codes. Documented in README.md; a change here is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything not named below: the host, the disk, a bug. Exit code 1.
    Other = 1,
    /// A profile, a lock, an argument or another input of the user's is wrong. Exit code 2.
    Input = 2,
    /// A mirror or the network does not give what was asked for. Exit code 3.
    Network = 3,
    /// A signature or a digest is not what was promised. Exit code 4.
    Integrity = 4,
    /// An external tool failed. Exit code 5.
    Tool = 5,
    /// A machine or a scenario did not give the verdict `healthy`. Exit code 6.
    Verdict = 6,
    /// Ctrl-C or SIGTERM. Exit code 130.
    Interrupted = 130,
}

/// An error whose kind is known, and optionally what to do about it.
#[derive(Debug)]
pub struct Failure {
    /// What kind of failure this is.
    pub kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure of `kind`; `message` says what happened to what, without a final stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// What to type or change to go on.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error: that of the first [`Failure`] in its chain, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    failure(error).map_or(Kind::Other as u8, |f| f.kind as u8)
}

/// The kind of an error: that of the first [`Failure`] in its chain.
pub fn kind(error: &anyhow::Error) -> Kind {
    failure(error).map_or(Kind::Other, |f| f.kind)
}

/// What to do about an error: the first hint in its chain, or one for a cause that many places share.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let deeper = || error.chain().filter_map(|e| e.downcast_ref::<Failure>()).find_map(|f| f.hint.clone());
    let ours = failure(error).and_then(|f| f.hint.clone());
    ours.or_else(deeper).or_else(|| {
        let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>())?;
        (io.kind() == std::io::ErrorKind::StorageFull)
            .then(|| "free some space, or name another disk with `--store` or `--output`, and run it again".into())
    })
}

/// The first failure of the chain. One that was given as the context of another error is seen by anyhow's own
/// `downcast_ref` alone: in the chain it is part of a type that only anyhow knows.
fn failure(error: &anyhow::Error) -> Option<&Failure> {
    error.downcast_ref().or_else(|| error.chain().find_map(|e| e.downcast_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn kind_and_hint_survive_contexts() {
        let error = Err::<(), _>(Failure::new(Kind::Network, "no mirror answers").hint("try again"))
            .context("fetching `zlib1g`")
            .expect_err("is an error");
        assert_eq!(exit_code(&error), 3);
        assert_eq!(hint(&error).as_deref(), Some("try again"));
    }

    #[test]
    fn a_failure_may_be_the_context_of_another_error() {
        let error = Err::<(), _>(std::io::Error::other("it is read-only"))
            .context(Failure::new(Kind::Input, "the folder can not be written").hint("name another"))
            .context("making a release")
            .expect_err("is an error");
        assert_eq!(exit_code(&error), 2);
        assert_eq!(hint(&error).as_deref(), Some("name another"));
    }

    #[test]
    fn a_full_disk_has_a_hint_wherever_it_happens() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = anyhow::Error::new(full).context("writing a file");
        assert!(hint(&error).expect("has a hint").contains("free some space"));
    }
}
