"""Large payloads between processes of one host: written once into memory that both can see, never through a socket.

    who has the objects                                          who needs them
    SegmentPool.store(parts) -> SharedPayload -- descriptor --> SharedPayload.views() -> writable buffers

A *segment* is a memfd: memory without a name, which is gone when the last process has released it, however that
ended. It starts with a header that says which segment it is, and how often it was filled:

    8 bytes MAGIC | 16 bytes, the segment's id | u64 fill | ... | at PART_START the parts of one payload, each aligned

Memory that the kernel has just handed out costs several times what a copy does. So segments are filled again and again,
and who has mapped one keeps the map for the next time. The law that makes this safe:

- Whoever may still read a segment holds a shared lock (`flock`) on it, through an open file of its own. It goes from
  process to process with the descriptor, also while it is under way in a socket, and the kernel ends it with the last
  descriptor and map: at a release, at a death, in forked children too.
- A pool fills a segment only while its own payload is gone and nobody holds a lock.
- Maps are private: what a reader writes is its own copy, page by page. A map that was written to is not used again.
- A segment can never shrink (a seal), so that no reader is struck by SIGBUS; it is checked before it is mapped.

All of it is an optimisation: wherever something is missing (memfd, /proc, descriptors, memory), `store` returns None,
or `views` copies, and the payload goes the ordinary way.
"""
