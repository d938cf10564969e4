"""Read the results of a run from another host.

On the host of the cameras:
    framegate run entrance=rtsp://camera.example/stream -d data --listen 192.0.2.7:6379
On this host:
    export STORE_URL=redis://viewer:PASSWORD@192.0.2.7:6379
    python examples/second_host.py
"""

import os

from framegate import errors, subscribe

with subscribe(os.environ["STORE_URL"], start="earliest") as results:
    while True:
        try:
            for result in results:
                labels = [item.label for item in result.objects]
                print(result.source, result.position, *labels, flush=True)
        except errors.ResultsTrimmed as gap:  # this host was away for too long: read on after it
            print(f"missed: {gap}", flush=True)
