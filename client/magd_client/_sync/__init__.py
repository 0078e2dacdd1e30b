"""The sync client, generated from `magd_client._async` by scripts/unasync but for `transport` and `twins`."""
