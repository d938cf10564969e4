"""Commands that watch and change an active run over its control socket."""
