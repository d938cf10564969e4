"""The consistency check of a data folder, and the repair of parts that follow from others.

`read_store` and `read_folder` take a snapshot. The checks are functions of that snapshot alone.
`repair` rebuilds the parts that follow from others.
"""
