"""From a foreign model file to a model folder, read apart from the rest."""
