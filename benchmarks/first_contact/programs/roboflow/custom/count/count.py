from collections import defaultdict

import supervision as sv
from network import Network

model = Network()
tracker = sv.ByteTrack()
fps = sv.VideoInfo.from_video_path("clip.mp4").fps
seen = defaultdict(set)
minute = 0
for number, frame in enumerate(sv.get_video_frames_generator("clip.mp4")):
    if number >= 60 * fps * (minute + 1):
        print(minute, {label: len(tracks) for label, tracks in seen.items()})
        minute += 1
        seen.clear()
    found = tracker.update_with_detections(model(frame))
    for *_, track, data in found:
        seen[data["class_name"]].add(track)
print(minute, {label: len(tracks) for label, tracks in seen.items()})
