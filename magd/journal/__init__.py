"""What a mag must remember besides its voxels. No asyncio."""
