"""The programs and rules with which Framegate is compared."""
