//! A device in memory that fails as devices do: calls that fail or hang, no room, flipped
//! bits, and code that panics.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::device::{Device, DeviceError, OnDevice};

const HANGS_MAX: Duration = Duration::from_secs(60);

/// What goes wrong from now on.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct Faults {
    pub(in crate::store) copies_in: bool,
    pub(in crate::store) copies_out: bool,
    /// Calls do not return until this is over, or a test that failed has long ended.
    pub(in crate::store) hangs: bool,
    /// A bit of what comes back is another one.
    pub(in crate::store) flips: bool,
    pub(in crate::store) panics: bool,
    /// More than so many bytes do not fit.
    pub(in crate::store) bytes_max: Option<usize>,
}

#[derive(Default)]
struct Inner {
    faults: Faults,
    held: usize,
    calls: usize,
}

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub(in crate::store) struct FaultyDevice(Arc<(Mutex<Inner>, Condvar)>);

struct Held {
    device: FaultyDevice,
    pieces: Vec<Bytes>,
}

fn broken(what: &str) -> DeviceError {
    DeviceError::Failed(what.into())
}

impl FaultyDevice {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) fn fail(&self, faults: Faults) {
        self.inner().faults = faults;
        self.0.1.notify_all();
    }

    /// Bytes that it holds.
    pub(in crate::store) fn held(&self) -> usize {
        self.inner().held
    }

    /// Calls so far.
    pub(in crate::store) fn calls(&self) -> usize {
        self.inner().calls
    }

    fn call(&self) -> Faults {
        let mut inner = self.inner();
        inner.calls += 1;
        let changed = &self.0.1;
        let waited = changed.wait_timeout_while(inner, HANGS_MAX, |inner| inner.faults.hangs);
        let faults = waited.unwrap_or_else(PoisonError::into_inner).0.faults;
        assert!(!faults.panics, "as it was told to");
        faults
    }
}

impl Device for FaultyDevice {
    fn name(&self) -> String {
        "a test's".to_owned()
    }

    fn copy_in(&self, pieces: &[Bytes]) -> Result<Box<dyn OnDevice>, DeviceError> {
        let faults = self.call();
        if faults.copies_in {
            return Err(broken("copy in"));
        }
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let mut inner = self.inner();
        if faults.bytes_max.is_some_and(|max| inner.held + bytes > max) {
            return Err(broken("out of memory"));
        }
        inner.held += bytes;
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece));
        Ok(Box::new(Held {
            device: self.clone(),
            pieces: pieces.collect(),
        }))
    }
}

impl OnDevice for Held {
    fn copy_out(&self) -> Result<Vec<Bytes>, DeviceError> {
        let faults = self.device.call();
        if faults.copies_out {
            return Err(broken("copy out"));
        }
        let mut pieces: Vec<Vec<u8>> = self.pieces.iter().map(|it| it.to_vec()).collect();
        if let (true, Some(byte)) = (faults.flips, pieces.last_mut().and_then(|it| it.last_mut())) {
            *byte ^= 1;
        }
        Ok(pieces.into_iter().map(Bytes::from).collect())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes: usize = self.pieces.iter().map(Bytes::len).sum();
        self.device.inner().held -= bytes;
    }
}
