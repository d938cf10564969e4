python cameras.py
