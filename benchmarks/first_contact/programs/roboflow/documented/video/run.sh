python video.py
