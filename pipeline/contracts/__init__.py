"""The types that stages, sources and readers build on: stages, sources, records, drops, results,
queries, episodes, keys, errors.
"""
