//! By which connection a fetch asks.

use super::Fetch;
use crate::{context::Gateway, lanes, way::Class};

/// By which lane a fetch asks. When that one breaks while others bring blocks, it goes on by the
/// one that brings most.
pub(super) struct By {
    pub(super) lane: usize,
    /// How often it may go on.
    left: usize,
}

impl By {
    pub(super) fn new(gateway: &Gateway, fetch: &Fetch) -> Self {
        // What is pushed stays off the lanes of what is waited for.
        let left = match fetch.class {
            Class::Demand => lanes::of_link(gateway, &fetch.region, &fetch.link),
            Class::Pushed => 0,
        };
        Self {
            lane: fetch.lane,
            left,
        }
    }

    /// Whether it goes on, by this lane.
    pub(super) fn again(&mut self, lane: usize) -> bool {
        let again = self.left > 0;
        if again {
            *self = Self {
                lane,
                left: self.left - 1,
            };
        }
        again
    }
}
