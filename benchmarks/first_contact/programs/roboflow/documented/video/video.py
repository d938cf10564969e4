import supervision as sv
from inference import get_model

model = get_model("rfdetr-nano")
tracker = sv.ByteTrack()
boxes, labels = sv.BoxAnnotator(), sv.LabelAnnotator()


def annotated(frame, number):
    found = tracker.update_with_detections(sv.Detections.from_inference(model.infer(frame)[0]))
    return labels.annotate(boxes.annotate(frame.copy(), found), found)


sv.process_video("clip.mp4", "annotated.mp4", annotated)
