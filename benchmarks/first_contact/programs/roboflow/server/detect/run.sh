# Needs Docker, which the first command starts a server in.
inference server start
inference infer -i clip.mp4 -m rfdetr-nano
