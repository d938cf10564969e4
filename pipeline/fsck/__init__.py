"""The consistency check of a data folder: what it holds, read at one moment and compared.

`read_store` and `read_folder` take a snapshot. The checks are functions of that snapshot alone.
`repair` rebuilds the parts that follow from others.
"""
