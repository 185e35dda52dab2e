//! Switches for known bugs, so that a simulation can show that it finds them.
//!
//! In every other build [`on`] is a constant `false`, and nothing of a bug is compiled.

/// A bug that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A put is acknowledged before `apply` has accepted its claim.
    AckBeforeApply,
    /// `apply` accepts copies of a past incarnation.
    ClaimWithoutIncarnation,
    /// A fill is kept although a tombstone is newer.
    FillForgetsTombstone,
    /// A node takes puts whatever ring epoch they name.
    EpochNotChecked,
    /// A mesh view leaves out one block in sixteen.
    MeshViewSkips,
}

#[cfg(not(kvmesh_mutations))]
mod switch {
    use super::Mutation;

    /// Whether a bug is switched on: never.
    #[must_use]
    pub const fn on(_: Mutation) -> bool {
        false
    }
}

#[cfg(kvmesh_mutations)]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether a bug is switched on, on this thread.
    #[must_use]
    pub fn on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }

    /// Switches a bug on, on this thread; none: all are off.
    pub fn set(mutation: Option<Mutation>) {
        ON.set(mutation);
    }

    /// Does something without any bug.
    pub fn off<T>(work: impl FnOnce() -> T) -> T {
        let before = ON.replace(None);
        let done = work();
        ON.set(before);
        done
    }
}

pub use switch::*;
