"""What tests of several folders share. Importable as `support`, since `tests` is on the path of pytest."""
