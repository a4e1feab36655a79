"""Object stores: a directory, S3."""
