"""Scripts for maintainers: they make the shipped weights, the demo clip and composed footage.

They are not in the wheel. The shipped weights come from these scripts, in this order:

1. tools.import_nanodet_plus        the published NanoDet-Plus -> OpenVINO IR
2. tools.quantise                   NanoDet-Plus in 8 bits
3. tools.import_yamnet              the published YAMNet -> OpenVINO IR and its labels
4. tools.import_centerface          the published CenterFace -> OpenVINO IR
5. tools.import_surveillance        Intel's person-vehicle-bike detectors -> OpenVINO IR
6. tools.describe_weights           `weights/manifest.toml`: sha256, origin and licence of each file
7. tools.train_doubt                `stages/escalate/doubt.toml`, from footage (`compose_footage`)

`tools.compose_demo` makes the clip of `framegate demo`. `tools.document_pictures` makes the
pictures of the documents again. `tools.compare_videos` shows what two checkouts draw on labelled
clips, side by side. `tools.trace_files` counts the files that a frame, an added source, a swap and
an audit pass.
"""
