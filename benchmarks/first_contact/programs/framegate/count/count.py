# Prints, minute by minute, how many objects of each class were in view.
from collections import defaultdict

import framegate

seen = defaultdict(set)
minute = 0
with framegate.run({"clip": "clip.mp4"}) as running:
    for result in running:
        if result.pts >= 60 * (minute + 1):
            print(minute, {label: len(tracks) for label, tracks in seen.items()})
            minute += 1
            seen.clear()
        for found in result.objects:
            seen[found.label].add(found.track)
print(minute, {label: len(tracks) for label, tracks in seen.items()})
