"""A camera's own network: narrowed and trained; needs the `train` extra.

1. import_weights     the published NanoDet and CenterNet -> safetensors (`student`, `centernet`:
                      the networks as torch modules)
2. export_ir          safetensors -> OpenVINO IR
3. quantise           NanoDet in 8 bits
4. import_yamnet      the published YAMNet -> OpenVINO IR and its labels
5. import_centerface  the published CenterFace -> OpenVINO IR
6. describe_weights   `weights/manifest.toml`: sha256, origin and licence of all of them

A camera's own network: `student` builds it, as the general one; `narrowing` gives it its first
weights, `lessons` are the pictures that it is shown, `detection_loss` is what it is to make small,
`train_student` does.
"""
