"""The client, written once: `magd_client._sync` is generated from this package by scripts/unasync.

Two modules exist in a hand-written version for each: `transport` (gRPC's calls) and `twins` (sleeping, running
side by side, assignment to slices).
"""
