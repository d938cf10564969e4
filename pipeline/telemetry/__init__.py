"""What is counted and measured, and how it is shown: counters, the view of a source, Prometheus."""
