"""The charter, its quorum, its amendments."""
