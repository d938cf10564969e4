"""A user's model: a folder with a manifest, addressed by its digest.

`model_folder`: a model as a folder with a manifest; `registry`: the folders of this machine, each
under its digest; `open`: a folder as a detector; `onnx_network`: its network by ONNX Runtime.
"""
