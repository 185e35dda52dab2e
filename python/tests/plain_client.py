"""A kvmesh client from the .proto files alone: grpcio and xxhash, nothing of our own.

Opens a namespace, puts two blocks, finds them, gets them and verifies every byte, deletes
them, and sees the miss. `chaos-tests/tests/python_client.rs` runs it against a real mesh:

    python -m grpc_tools.protoc -I proto --python_out=OUT --grpc_python_out=OUT proto/kvmesh/v1/*.proto
    python python/tests/plain_client.py OUT 127.0.0.1:7400
"""

import random
import sys

import grpc
import xxhash

sys.path.insert(0, sys.argv[1])
from kvmesh.v1 import cache_pb2, cache_pb2_grpc, common_pb2  # noqa: E402

MESSAGE_BYTES_MAX = 8 << 20  # grpcio receives 4 MiB at most unless it is told otherwise
CALL_SECONDS = 30  # every call has a deadline; without one grpcio waits for ever


def connect(address):
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ]
    return cache_pb2_grpc.CacheStub(grpc.insecure_channel(address, options=options))


class Namespace:
    """One namespace, and the newest position that this client was told (reads its own writes)."""

    def __init__(self, stub, model):
        self.stub = stub
        description = common_pb2.NamespaceDescription(
            model=model,
            dtype="bf16",
            layout="opaque",
            block_tokens=16,
            hash_width=32,
            shard_count=1,
            group_count=1,
        )
        request = cache_pb2.OpenRequest(description=description, name=model)
        opened = stub.Open(request, timeout=CALL_SECONDS)
        self.id = opened.namespace.id
        self.piece_bytes = opened.limits.piece_bytes
        self.position = opened.position
        check(len(self.id) == 16, "a namespace id has 16 bytes")
        check(opened.limits.message_bytes_max == MESSAGE_BYTES_MAX, "the limit is as documented")

    def pieces(self, block):
        return [block[at : at + self.piece_bytes] for at in range(0, len(block), self.piece_bytes)]

    def meta(self, block, depth):
        # `digest` is big endian, as the protocol wants it.
        sums = b"".join(xxhash.xxh3_128(piece).digest() for piece in self.pieces(block))
        return common_pb2.BlockMeta(
            bytes=len(block),
            checksum=xxhash.xxh3_128(sums).digest(),
            piece_checksums=sums,
            depth=depth,
        )

    def chain(self, hashes):
        return common_pb2.Chain(hashes=b"".join(hashes), width=len(hashes[0]))

    def put(self, hashes, blocks, metas):
        """Offers every block, then sends all pieces without waiting for SEND.

        Returns each block's ack, or the decision that refused it.
        """

        def frames():
            open_ = cache_pb2.PutOpen(
                namespace_id=self.id, ack=common_pb2.ACK_LEVEL_REPLICATED
            )
            yield cache_pb2.PutRequest(open=open_)
            for index, (hash_, meta) in enumerate(zip(hashes, metas)):
                offer = cache_pb2.PutOffer(id=index, hash=hash_, meta=meta)
                yield cache_pb2.PutRequest(offer=offer)
            for index, block in enumerate(blocks):
                for piece in self.pieces(block):
                    data = cache_pb2.PutPiece(id=index, data=piece)
                    yield cache_pb2.PutRequest(piece=data)
            # The end of the generator closes the sending side.

        ends = {}
        for answer in self.stub.Put(frames(), timeout=CALL_SECONDS):
            kind = answer.WhichOneof("frame")
            if kind == "ack":
                ends[answer.id] = answer.ack
                if answer.ack.position.index > self.position.index:
                    self.position = answer.ack.position
            elif answer.decision.verdict == cache_pb2.PutDecision.REFUSED:
                ends[answer.id] = answer.decision
        return [ends[index] for index in range(len(blocks))]

    def lookup(self, hashes):
        query = cache_pb2.ChainQuery(chain=self.chain(hashes))
        request = cache_pb2.LookupRequest(
            namespace_id=self.id, chains=[query], at_least=[self.position]
        )
        while True:
            answer = self.stub.Lookup(request, timeout=CALL_SECONDS)
            if not answer.view_behind:  # else: it waited at_least_wait already; ask again
                return answer.matches[0]

    def get(self, hashes):
        """The outcome, and the blocks that came, each of them verified."""
        request = cache_pb2.GetRequest(
            namespace_id=self.id, chain=self.chain(hashes), at_least=[self.position]
        )
        while True:
            blocks, header, pieces = {}, None, []
            for frame in self.stub.Get(request, timeout=CALL_SECONDS):
                if frame.HasField("header"):
                    header, pieces = frame.header, []
                if frame.piece:
                    pieces.append(frame.piece)
                if frame.end == cache_pb2.BLOCK_END_COMPLETE:
                    block = b"".join(pieces)
                    sums = b"".join(xxhash.xxh3_128(piece).digest() for piece in pieces)
                    check(len(block) == header.meta.bytes, "the block is whole")
                    check(sums == header.meta.piece_checksums, "every piece is right")
                    check(xxhash.xxh3_128(sums).digest() == header.meta.checksum, "all of it is")
                    blocks[header.index] = block
                if frame.HasField("summary"):  # always last
                    outcome = frame.summary.outcome
            if outcome != cache_pb2.GET_OUTCOME_VIEW_BEHIND:
                return outcome, blocks

    def delete(self, hashes):
        request = cache_pb2.DeleteRequest(namespace_id=self.id, chain=self.chain(hashes))
        answer = self.stub.Delete(request, timeout=CALL_SECONDS)
        self.position = answer.position
        return answer.deleted


def check(holds, what):
    if not holds:
        raise SystemExit(f"not so: {what}")


def main(address):
    stub = connect(address)
    namespace = Namespace(stub, "plain-python")
    chance = random.Random(1)
    blocks = [chance.randbytes(300_001), chance.randbytes(5 * namespace.piece_bytes // 2)]
    hashes = [chance.randbytes(32) for _ in blocks]
    metas = [namespace.meta(block, depth) for depth, block in enumerate(blocks)]

    wrong = common_pb2.BlockMeta()
    wrong.CopyFrom(metas[0])
    wrong.checksum = bytes(reversed(wrong.checksum))
    (refused,) = namespace.put(hashes[:1], blocks[:1], [wrong])
    check(
        getattr(refused, "reason", None)
        == cache_pb2.REFUSAL_REASON_INVALID,
        f"a wrong checksum is refused: {refused}",
    )
    check(namespace.lookup(hashes).local_blocks == 0, "and nothing of it is there")

    for ack in namespace.put(hashes, blocks, metas):
        check(ack.level == common_pb2.ACK_LEVEL_REPLICATED, f"the block is replicated: {ack}")
        check(ack.copies >= 2, f"on two nodes: {ack}")
    print("put      2 blocks, 2 copies each at least")

    match = namespace.lookup(hashes)
    check(match.local_blocks == 2, f"both blocks are found: {match}")
    check(match.local_bytes == sum(map(len, blocks)), f"with their bytes: {match}")
    print(f"lookup   {match.local_blocks} blocks, {match.local_bytes} bytes")

    outcome, got = namespace.get(hashes)
    check(outcome == cache_pb2.GET_OUTCOME_COMPLETE, f"the get is complete: {outcome}")
    check([got[index] for index in range(2)] == blocks, "these are the bytes that were put")
    print("get      every byte is as it was put")

    check(namespace.delete(hashes) == 2, "both are deleted")
    check(namespace.lookup(hashes).local_blocks == 0, "a lookup finds none")
    outcome, got = namespace.get(hashes)
    check((outcome, got) == (cache_pb2.GET_OUTCOME_MISS, {}), f"a get misses: {outcome}")
    print("delete   both are gone")

    try:
        stub.Lookup(
            cache_pb2.LookupRequest(
                namespace_id=bytes(16),
                chains=[cache_pb2.ChainQuery(chain=namespace.chain(hashes))],
            ),
            timeout=CALL_SECONDS,
        )
        check(False, "an unknown namespace is refused")
    except grpc.RpcError as error:
        check(error.code() == grpc.StatusCode.NOT_FOUND, f"NOT_FOUND: {error}")
        details = dict(error.trailing_metadata() or ())
        check("grpc-status-details-bin" in details, f"with details: {details}")
    print("error    an unknown namespace is NOT_FOUND, with details")


if __name__ == "__main__":
    main(sys.argv[2])
