#!/bin/sh
# Use a network of your own: add it to the registry, then run it on a source.
#
#   sh examples/custom_model.sh yard.onnx rtsp://camera.example/stream --classes person,forklift
#
# Further options are those of `framegate models add`. It interprets the outputs, shows how, and
# draws the boxes that it finds into look.png: look at it before you trust the model.
set -eu
if [ "$#" -lt 2 ]; then
  echo "usage: sh examples/custom_model.sh MODEL SOURCE [options of framegate models add]" >&2
  exit 2
fi
model=$1
source=$2
shift 2

framegate models add "$model" --name mine --drawn look.png --overwrite "$@"
framegate run "entrance=$source" --detector mine --json
