"""The consistency check of a data folder, and the repair of parts that follow from others.

`read_store` and `read_folder` take a snapshot. The checks are pure functions of that snapshot.
`fsck` runs them, and rebuilds the parts that follow from others.
"""
