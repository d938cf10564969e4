"""Models of a user: folders with a manifest, addressed by their digest.

`model_folder`: the folder and its manifest; `registry`: the models of this machine; `open`: a
detector from a folder; `onnx_network`: ONNX Runtime as the runtime of a model.
"""
