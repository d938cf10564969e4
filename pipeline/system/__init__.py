"""Tools of every process: logs, files, clocks, retries, ports with a bounded number of
connections, stages by dotted path.
"""
