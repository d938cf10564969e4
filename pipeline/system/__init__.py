"""Tools of every process: logs, files, ports, clocks, retries. They import only the contracts."""
