//! How a made-up far gateway encodes pieces.

use kvmesh_client::{Encoding, ToWire};
use kvmesh_proto::v1 as wire;

use super::{Holder, Mood};

/// The frame with its piece encoded, in the first way that is asked for.
pub(super) fn coded(
    holder: &Holder,
    request: &wire::GetRequest,
    mut frame: wire::GetResponse,
) -> wire::GetResponse {
    let known = [Encoding::Bf16Fp8, Encoding::Bf16Exponents].into_iter();
    let asked = |it: &Encoding| request.encodings.contains(&it.to_wire());
    let encodes = matches!(holder.mood(), Mood::Encodes | Mood::Garbles);
    let encoding = known.filter(|_| encodes).find(asked);
    if let Some(encoding) = encoding
        && let Some(mut encoded) = encoding.encode(&frame.piece)
    {
        encoded.truncate(encoded.len() - usize::from(holder.mood() == Mood::Garbles));
        (frame.piece, frame.encoding) = (encoded.into(), encoding.to_wire());
    }
    frame
}
