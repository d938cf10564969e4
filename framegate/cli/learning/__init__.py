"""Commands that keep pictures, fit a detector to a camera and train one."""
