"""Actors: the only code that touches the files of a mag or the properties of a dataset. asyncio; no gRPC."""
