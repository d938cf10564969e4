python detect.py
