"""Side-by-side measurements of this project and other servers; `python -m benchmarks`."""
