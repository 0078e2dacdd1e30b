"""The files of a mag: WKW cube files and their header. Blocking, and nothing above it knows the format."""
