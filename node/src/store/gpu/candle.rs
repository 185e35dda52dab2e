//! Devices by candle: a piece is a tensor of bytes.

use std::sync::Arc;

use bytes::Bytes;
use candle_core::{Device as Candle, Tensor};

use super::device::{Device, DeviceError, OnDevice};

/// The first device that CUDA shows.
#[cfg(feature = "cuda")]
pub(super) fn first() -> Result<Arc<dyn Device>, DeviceError> {
    let device = Candle::new_cuda(0)?;
    let name = device.as_cuda_device()?.cuda_stream().context().name();
    let name = name.map_err(|error| DeviceError::Failed(Box::new(error)))?;
    Ok(Arc::new(OfCandle { device, name }))
}

/// Memory of the host.
#[cfg(not(feature = "cuda"))]
pub(super) fn first() -> Result<Arc<dyn Device>, DeviceError> {
    let name = "memory of the host, since this program was built without cuda".to_owned();
    let device = Candle::Cpu;
    Ok(Arc::new(OfCandle { device, name }))
}

impl From<candle_core::Error> for DeviceError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

struct OfCandle {
    device: Candle,
    name: String,
}

impl Device for OfCandle {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn copy_in(&self, pieces: &[Bytes]) -> Result<Box<dyn OnDevice>, DeviceError> {
        let tensor = |piece: &Bytes| Tensor::from_slice(piece, piece.len(), &self.device);
        let tensors = pieces.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
        // Copies are under way until then, and so are their errors.
        self.device.synchronize()?;
        Ok(Box::new(Tensors(tensors)))
    }
}

struct Tensors(Vec<Tensor>);

impl OnDevice for Tensors {
    fn copy_out(&self) -> Result<Vec<Bytes>, DeviceError> {
        let piece = |tensor: &Tensor| Ok(Bytes::from(tensor.to_vec1::<u8>()?));
        self.0.iter().map(piece).collect()
    }
}
