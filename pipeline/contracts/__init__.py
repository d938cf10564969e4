"""The types that stages, sources and readers build on: stages, sources, records, results,
queries, episodes, keys, errors.
"""
