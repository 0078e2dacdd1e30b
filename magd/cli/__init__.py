"""The command line. Every module but `main` is imported only when its command runs."""
