"""Load the results of a run into DuckDB, one row per object, and query them with SQL.

python examples/results_to_duckdb.py data objects.duckdb
"""

import argparse
from itertools import islice

import duckdb
import pandas

from framegate import subscribe

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data", help="the data folder of a run, or the URL of its store")
parser.add_argument("database", help="the file of the database")
options = parser.parse_args()

QUERY = """
    select source, label, count(distinct track) as tracks, round(avg(score), 2) as score
    from objects group by source, label order by tracks desc
"""

with (
    duckdb.connect(options.database) as database,
    subscribe(options.data, start="earliest", until_end=True) as results,
):
    while batch := list(islice(results, 1000)):
        frame = pandas.concat([result.to_pandas() for result in batch])
        database.execute("create table if not exists objects as select * from frame limit 0")
        database.execute("insert into objects select * from frame")
    database.sql(QUERY).show()
