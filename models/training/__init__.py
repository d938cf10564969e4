"""A camera's own network: narrowed and trained; needs the `train` extra.

`nanodet_plus` is the network, `narrowing` gives a narrower one its first weights, `lessons` are the
pictures that it is shown, `detection_loss` is the function that training reduces, `train_student`
trains. `export_ir` converts it to OpenVINO.
"""
