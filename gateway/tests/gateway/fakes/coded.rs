//! How a made-up far gateway encodes pieces.

use kvmesh_client::{Encoding, ToWire};
use kvmesh_proto::v1 as wire;

use super::{Holder, Mood};

/// The frame with its piece encoded.
pub(super) fn coded(
    holder: &Holder,
    request: &wire::GetRequest,
    mut frame: wire::GetResponse,
) -> wire::GetResponse {
    let encoding = Encoding::Bf16Exponents;
    let asked = request.encodings.contains(&encoding.to_wire());
    let encodes = matches!(holder.mood(), Mood::Encodes | Mood::Garbles);
    if let (true, Some(mut encoded)) = (asked && encodes, encoding.encode(&frame.piece)) {
        encoded.truncate(encoded.len() - usize::from(holder.mood() == Mood::Garbles));
        (frame.piece, frame.encoding) = (encoded.into(), encoding.to_wire());
    }
    frame
}
