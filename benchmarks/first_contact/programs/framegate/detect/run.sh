framegate run clip.mp4 --json
