"""What is measured of finished runs, beside the tests that the runner plays."""
