"""Coarser mags: which ones there are, and how their voxels come from those of a finer one."""
