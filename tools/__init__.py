"""Scripts for maintainers: they make the shipped weights, the demo clip and composed footage.

They are not in the wheel. The shipped weights come from these scripts, in this order:

1. tools.import_weights             the published NanoDet -> safetensors
2. framegate.models.training.export_ir   safetensors -> OpenVINO IR
3. tools.quantise nanodet           NanoDet in 8 bits; after step 6: nanodet-plus
4. tools.import_yamnet              the published YAMNet -> OpenVINO IR and its labels
5. tools.import_centerface          the published CenterFace -> OpenVINO IR
6. tools.import_nanodet_plus        the published NanoDet-Plus -> OpenVINO IR
7. tools.import_surveillance        Intel's person-vehicle-bike detectors -> OpenVINO IR
8. tools.describe_weights           `weights/manifest.toml`: sha256, origin and licence of each file
9. tools.train_doubt                `stages/escalate/doubt.toml`, from footage (`compose_footage`)

`tools.compose_demo` makes the clip of `framegate demo`. `tools.trace_files` counts the files that a
frame, an added source, a swap and an audit pass.
"""
