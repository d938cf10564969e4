"""The user's own models.

`model_folder`: a model as a folder with a manifest; `registry`: the folders of this machine, each
under its digest; `open`: a folder as a detector; `onnx_network`: its network by ONNX Runtime.
"""
