"""Draw objects, traces and the view of the gate into pictures and videos. Knows decode."""
