from __future__ import annotations

from jobrunner.mapping.chunk_queue import ChunkQueue
from jobrunner.mapping.chunking import Chunking, window
from jobrunner.mapping.spans import Pack, Span
from jobrunner.protocol.tuning import CHUNK_SECONDS
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS

MEASURED = Chunking(per_call=CHUNK_SECONDS / 4096, longest=1000)


def queue(chunksize=None, *, chunking=MEASURED, **options):
    return ChunkQueue(chunking, DEFAULT_OPTIONS._replace(**options), chunksize)


def taken(queue, slots=1, under_way=0, end=None):
    """The chunks that come one after the other, by their places in the input."""
    found = []
    while (span := queue.next(slots, under_way, end)) is not None:
        found.append((span.position, len(span)))
    return found


def test_a_pack_is_cut_as_was_measured_and_alone_before_that():
    chunks = queue()
    chunks.add_pack(Pack(b"", 10, 9000))
    assert taken(chunks) == [(10, 4096), (4106, 4096), (8202, 808)]
    unmeasured = queue(chunking=Chunking())
    unmeasured.add_pack(Pack(b"", 10, 2))
    assert taken(unmeasured) == [(10, 1), (11, 1)]


def test_the_last_chunks_are_smaller():
    chunks = queue(chunking=Chunking(per_call=0.001, longest=1000))
    chunks.add_pack(Pack(b"", 0, 16))
    sizes = [size for _, size in taken(chunks, slots=2, end=16)]
    assert sum(sizes) == 16
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 10


def test_a_pack_of_a_fixed_size_is_one_chunk_and_waits_for_no_window():
    chunks = queue(chunksize=5)
    chunks.add_pack(Pack(b"", 0, 5))
    assert taken(chunks, under_way=window(1)) == [(0, 5)]


def test_beyond_the_window_only_what_is_to_run_again_leaves():
    chunks = queue()
    pack = Pack(b"", 0, 10)
    chunks.add_pack(pack)
    chunks.add_rest(Span(pack, 4, 6, 0), 1)
    chunks.add_chunks([Span(pack, 2, 3, 0)])
    assert taken(chunks, under_way=window(1)) == [(2, 1)]
    assert taken(chunks, under_way=window(1) - 1)[:2] == [(4, 1), (5, 1)], "what was given back comes first"


def test_an_element_with_a_time_limit_is_a_chunk():
    chunks = queue(timeout=1.0)
    chunks.add_pack(Pack(b"", 0, 3))
    assert taken(chunks) == [(0, 1), (1, 1), (2, 1)]


def test_everything_may_be_taken_at_once():
    chunks = queue()
    pack = Pack(b"", 0, 9000)
    chunks.add_pack(pack)
    assert chunks.next(1, 0, None) is not None
    chunks.add_rest(Span(pack, 4, 6, 0), 1)
    chunks.add_chunks([Span(pack, 2, 3, 0)])
    assert [(span.start, span.stop) for span in chunks.take_all()] == [(2, 3), (4, 6), (4096, 9000)]
    assert taken(chunks) == []
