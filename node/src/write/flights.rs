//! Which names are being put on this node right now: one writer at a time, others join and
//! see whether it gets on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvmesh_directory::BlockName;
use tokio::sync::watch;

/// Puts in flight by name.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    open: Mutex<BTreeMap<BlockName, watch::Sender<()>>>,
}

/// The right to put one name; others may when it is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    name: BlockName,
}

impl Flights {
    fn open(&self) -> MutexGuard<'_, BTreeMap<BlockName, watch::Sender<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to put a name, or what to wait on: it changes when the other writer gets on,
    /// and closes when that is done.
    pub(crate) fn begin(self: &Arc<Self>, name: BlockName) -> Result<Flight, watch::Receiver<()>> {
        let mut open = self.open();
        if let Some(busy) = open.get(&name) {
            return Err(busy.subscribe());
        }
        open.insert(name, watch::Sender::new(()));
        Ok(Flight {
            flights: Arc::clone(self),
            name,
        })
    }

    /// Whether a name is being put.
    pub(crate) fn contains(&self, name: &BlockName) -> bool {
        self.open().contains_key(name)
    }
}

impl Flight {
    /// Tells those who joined that it gets on.
    pub(crate) fn gets_on(&self) {
        if let Some(flight) = self.flights.open().get(&self.name) {
            flight.send_replace(());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.open().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{BlockHash, NamespaceId, Part};

    use super::*;

    #[tokio::test]
    async fn the_second_writer_waits_for_the_first() {
        let flights = Arc::new(Flights::default());
        let name = BlockName {
            namespace: NamespaceId([0; 16]),
            hash: BlockHash([0; 32]),
            part: Part::default(),
        };
        let first = flights.begin(name).unwrap();
        let mut busy = flights.begin(name).unwrap_err();
        assert!(flights.contains(&name));
        first.gets_on();
        assert!(busy.changed().await.is_ok());
        drop(first);
        assert!(busy.changed().await.is_err());
        assert!(flights.begin(name).is_ok());
    }
}
