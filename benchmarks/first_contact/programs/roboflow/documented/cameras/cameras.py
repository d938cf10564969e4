from inference import InferencePipeline


def sink(predictions, frames):
    for found, frame in zip(predictions, frames):
        if frame is not None:
            print(frame.source_id, frame.frame_id, found["predictions"])


pipeline = InferencePipeline.init(
    model_id="rfdetr-nano",
    video_reference=["rtsp://camera.example/door", "rtsp://camera.example/yard"],
    on_prediction=sink,
)
pipeline.start()
pipeline.join()
