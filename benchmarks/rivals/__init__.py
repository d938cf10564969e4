"""What Framegate is measured against."""
