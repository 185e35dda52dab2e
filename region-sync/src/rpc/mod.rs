//! The edge: what this process serves, and what it asks of others. Generated types stop here.

pub(crate) mod bring;
pub(crate) mod compare;
mod feed;
pub(crate) mod home;
pub(crate) mod probe;
mod subscriber;
#[cfg(test)]
mod subscriber_test;
pub(crate) mod sync;

pub(crate) use feed::service;
