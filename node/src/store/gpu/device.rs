//! What the tier needs of a device. Calls block; the pool makes them elsewhere.

use std::{error::Error, io, sync::Arc};

use bytes::Bytes;

/// A device with memory of its own.
pub trait Device: Send + Sync {
    /// What it is, for the log.
    fn name(&self) -> String;
    /// Copies pieces of bytes into memory of the device; they are there on return.
    ///
    /// # Errors
    /// When it has no room, or fails; it keeps nothing then.
    fn copy_in(&self, pieces: &[Bytes]) -> Result<Box<dyn OnDevice>, DeviceError>;
}

/// Bytes on a device; dropped, they leave it.
pub trait OnDevice: Send + Sync {
    /// Copies the pieces into memory of the host.
    ///
    /// # Errors
    /// When the device fails.
    fn copy_out(&self) -> Result<Vec<Bytes>, DeviceError>;
}

/// Why a device did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no code for one.
    #[error("this program was built without devices: build it with the feature gpu or cuda")]
    NotBuilt,
    /// It failed, or has no room.
    #[error("the device failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl From<io::Error> for DeviceError {
    fn from(error: io::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// Whether this program can use a device.
pub const BUILT: bool = cfg!(feature = "gpu");

/// The device of this program: the first that CUDA shows it or, without the feature `cuda`,
/// memory of the host, for tests and trials.
///
/// # Errors
/// When there is none.
pub fn first() -> Result<Arc<dyn Device>, DeviceError> {
    #[cfg(feature = "gpu")]
    return super::candle::first();
    #[cfg(not(feature = "gpu"))]
    Err(DeviceError::NotBuilt)
}
