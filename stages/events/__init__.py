"""Judge the rules of `[events]` over published results; episodes come out. Knows no other stage."""
