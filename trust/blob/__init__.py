"""Sealed blobs: payload and manifest."""
