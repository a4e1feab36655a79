"""Every way of breaking a promise that we could think of, each with the error that it must meet."""
