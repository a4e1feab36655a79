"""What happened: events, Merkle log, checkpoints, witnesses, verification.

    events                     the leaves: what each party said, signed by it
    merkle tree tiles          RFC 6962 hashing and proofs; where hashes and leaves lie (C2SP tlog-tiles)
    note checkpoint            the log's signed word for its size and root
    cosignature witness policy what sites and outside witnesses vouch for, and whose word is enough
    proof                      `.tlog-proof`: one leaf's place, checkable offline
    journal folder log         the one writer: durable, crash-safe, never signing two histories
    source evidence verify     an outside reader: numbered obligations over a copy of the log
    show                       a timeline that is safe to print

It guarantees that what was acknowledged stays where it was, that no two checkpoints of one folder contradict each other,
and that a reader with the charter finds every departure named in `audit.verify`.

It does not decide who may take part (`trust`), drive a run (`runtime`), recompute an aggregate (`runtime`'s replay), or
notice by itself that somebody else was shown another log: witnesses do.
"""
