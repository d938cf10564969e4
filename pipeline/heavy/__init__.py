"""Questions to a heavier model: how they are asked, batched, carried and answered."""
