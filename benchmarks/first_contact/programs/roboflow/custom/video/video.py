import supervision as sv
from network import Network

model = Network()
tracker = sv.ByteTrack()
boxes, labels = sv.BoxAnnotator(), sv.LabelAnnotator()


def annotated(frame, number):
    found = tracker.update_with_detections(model(frame))
    return labels.annotate(boxes.annotate(frame.copy(), found), found)


sv.process_video("clip.mp4", "annotated.mp4", annotated)
