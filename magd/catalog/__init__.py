"""What lies below the root folder: names, folders, locks. Blocking; no asyncio."""
