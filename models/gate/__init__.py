"""The change gate: changed tiles within a stated bound, the parts to look at, boxes that stay
valid.
"""
