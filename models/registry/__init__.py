"""Models of a user: folders with a manifest, addressed by their digest.

`manifest`, `model_folder`: a model as a folder; `registry`: the models of this machine; `open`: a
detector from a folder; `onnx_network`: ONNX Runtime as the runtime of a model.
"""
