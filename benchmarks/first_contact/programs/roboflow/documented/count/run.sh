python count.py
