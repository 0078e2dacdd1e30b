"""The gRPC edge: translates calls to the storage and back. Nothing here decides what happens to data."""
