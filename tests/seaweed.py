"""The S3 server of the tests: one SeaweedFS for the session."""

from __future__ import annotations

from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_http import Patience

QUICK = Patience(attempts=4, connect=5, silence=20, base=0.01, most=0.05)


def store_on(server: LocalS3, bucket: str, prefix: str = "") -> S3Store:
    """Return a store in a fresh bucket of ``server``."""
    store = S3Store(
        server.place(bucket, prefix), access_key=server.access_key, secret_key=server.secret_key, patience=QUICK
    )
    store.create_bucket()
    return store
