"""Work on whole cube files, in processes of their own."""
