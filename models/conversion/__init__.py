"""Import of foreign model files into the registry.

`add` takes these steps in order:

convert.read      copy the user's files; determine their kind (`file_kind`); read ports and metadata
settle            decide the format of the outputs and the input: from the formats that fit
                  (`guess`) and the user's options; ask if several fit
convert.build     write the network file of the model folder, with pre-processing inside
proof             run it on pictures, and refuse it if its boxes make no sense
convert.assemble  write the folder with its manifest; then `registry` copies it

`sandbox` opens foreign files in a process with limits; `file_kind` and `sandbox_tasks` are its
tasks. Outside of it, `settle` reads only the metadata that a task returned as text.
"""
