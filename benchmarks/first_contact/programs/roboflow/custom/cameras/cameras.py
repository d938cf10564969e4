from inference import InferencePipeline
from network import Network

model = Network()


def sink(predictions, frames):
    for found, frame in zip(predictions, frames):
        if frame is not None:
            print(frame.source_id, frame.frame_id, found["class_name"].tolist())


pipeline = InferencePipeline.init_with_custom_logic(
    video_reference=["rtsp://camera.example/door", "rtsp://camera.example/yard"],
    on_video_frame=lambda frames: [model(frame.image) for frame in frames],
    on_prediction=sink,
)
pipeline.start()
pipeline.join()
