framegate run clip.mp4 --save videos
