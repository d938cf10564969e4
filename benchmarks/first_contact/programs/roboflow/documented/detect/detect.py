from inference import InferencePipeline


def sink(predictions, frame):
    print(frame.frame_id, predictions["predictions"])


pipeline = InferencePipeline.init(
    model_id="rfdetr-nano", video_reference="clip.mp4", on_prediction=sink
)
pipeline.start()
pipeline.join()
