"""Where sealed blobs lie: put once, grant, read by range.

A store is a shelf, not a witness. It is trusted to keep bytes for a while and for nothing else: whoever reads an
object verifies it against a signed manifest (`trust.blob`), on every read. What the stores here do promise:

- *Put once.* A key, once taken, never shows other bytes. Putting the same bytes again succeeds.
- *Whole or absent.* A crash at any point leaves either nothing under the key or the complete object, synced.
- *Keys are ours.* Every key is checked against `trust.identifiers.ObjectKey` at each door; nothing a peer spelled
  reaches a path or a URL.
- *Grants are narrow.* One key, one method, one exact length, a time limit, and the digest when it is known; a site that
  holds a grant holds no credential. A grant's URLs are secrets: no `repr`, error or log shows them.

`seam` holds the protocols, `grants` the capability that travels, `directory` and `s3` the two stores, `s3_client` the
site's end without credentials, `local_s3` a private SeaweedFS for demo, tests and benchmarks.
Not handled here: encryption, signatures, digests of parts (`trust.blob`), and who may have which grant (the server).
"""
