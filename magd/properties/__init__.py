"""datasource-properties.json: what it says, edits of it, saving it; nothing of the folders beside it."""
