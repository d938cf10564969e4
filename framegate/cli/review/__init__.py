"""Commands that read the results, episodes, visits and recordings of a run."""
