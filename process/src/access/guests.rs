//! Clients of other regions that a server serves.

use std::{fmt, sync::Arc};

use kvmesh_directory::RegionId;

type Serves = dyn Fn(&RegionId) -> bool + Send + Sync;

/// Whether a server serves the clients of another region, as its settings are at the moment.
/// By default it serves those of none.
#[derive(Clone, Default)]
pub struct Guests(Option<Arc<Serves>>);

impl Guests {
    /// Those of the regions for which `serves` is true. It is asked before every call of a client
    /// of another region.
    pub fn of(serves: impl Fn(&RegionId) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(serves)))
    }

    pub(super) fn admits(&self, region: &RegionId) -> bool {
        self.0.as_ref().is_some_and(|serves| serves(region))
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0 {
            Some(_) => "as the settings say",
            None => "none",
        };
        f.debug_tuple("Guests").field(&what).finish()
    }
}
