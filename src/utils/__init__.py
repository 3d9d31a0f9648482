"""Small things with no home elsewhere."""
