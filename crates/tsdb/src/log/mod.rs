//! The store on a disk: a log of what changes, and from time to time a snapshot of everything, so that older log goes.
pub(crate) mod queue;
