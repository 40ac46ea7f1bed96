"""Speed claims, as benchmarks and never as tests: make bench."""
