from inference import InferencePipeline
from network import Network

model = Network()


def sink(found, frame):
    print(frame.frame_id, found.xyxy.tolist(), found["class_name"].tolist())


pipeline = InferencePipeline.init_with_custom_logic(
    video_reference="clip.mp4",
    on_video_frame=lambda frames: [model(frame.image) for frame in frames],
    on_prediction=sink,
)
pipeline.start()
pipeline.join()
